"""Teaching a model to follow preferences and rules: data, SFT and DPO (extra `train`)."""
