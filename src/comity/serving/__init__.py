"""The gateway: any OpenAI client, aligned by changing one URL (extra `serve`)."""
