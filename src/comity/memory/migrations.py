"""Numbered migrations of the SQLite book of record.

Each is applied once, in order, in one transaction with the others that are due; the number of
the last one applied is the database's `user_version`. A migration that has been released is
never edited: a change is a new one at the end.
"""

from __future__ import annotations

APPLICATION_ID = 0x436F6D69  # "Comi", so that another program's database is never touched

_CREATE = """
CREATE TABLE identity (value TEXT NOT NULL) STRICT;
INSERT INTO identity VALUES (lower(hex(randomblob(16))));

CREATE TABLE revision (
    number   INTEGER PRIMARY KEY,
    tenant   TEXT NOT NULL,
    made_at  INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    author   TEXT NOT NULL,
    note     TEXT NOT NULL
) STRICT;
CREATE INDEX revision_by_tenant ON revision (tenant);

CREATE TABLE rule (
    row        INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant     TEXT NOT NULL,
    id         TEXT NOT NULL,
    version    INTEGER NOT NULL,
    revision   INTEGER NOT NULL REFERENCES revision (number),
    place      TEXT NOT NULL,
    audience   TEXT NOT NULL,
    domain     TEXT NOT NULL,
    authority  TEXT NOT NULL,
    valid_from INTEGER,
    valid_to   INTEGER,
    status     TEXT NOT NULL,
    mandatory  INTEGER NOT NULL,
    overrides  TEXT NOT NULL,
    record     TEXT NOT NULL,
    UNIQUE (tenant, id, version)
) STRICT;
CREATE INDEX rule_by_revision ON rule (revision);

CREATE TABLE place (
    tenant   TEXT NOT NULL,
    code     TEXT NOT NULL,
    names    TEXT NOT NULL,
    revision INTEGER NOT NULL REFERENCES revision (number),
    PRIMARY KEY (tenant, code)
) STRICT;

CREATE TABLE decision (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant   TEXT NOT NULL,
    id       TEXT NOT NULL,
    made_at  INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    record   TEXT NOT NULL,
    hash     TEXT NOT NULL,
    UNIQUE (tenant, id)
) STRICT;
CREATE INDEX decision_by_tenant ON decision (tenant);
"""

_APPEND_ONLY = "".join(
    f"""
CREATE TRIGGER {table}_is_never_{verb.lower()}d BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""
    for table in ("revision", "rule", "decision")
    for verb in ("UPDATE", "DELETE")
)

_KEYS = {
    "revision": "number = NEW.number",
    "rule": "row = NEW.row OR (tenant, id, version) = (NEW.tenant, NEW.id, NEW.version)",
    "decision": "number = NEW.number OR (tenant, id) = (NEW.tenant, NEW.id)",
}

# REPLACE deletes the old row without asking the triggers for DELETE
_NEVER_REPLACED = "".join(
    f"""
CREATE TRIGGER {table}_is_never_replaced BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE {key})
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""
    for table, key in _KEYS.items()
)

_KEYS_OF_THE_GATEWAY = """
CREATE TABLE access_key (
    hash       TEXT PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    tenant     TEXT NOT NULL,
    role       TEXT NOT NULL,
    note       TEXT NOT NULL,
    made_at    INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;
"""

_PAIRS_OF_RULES = """
CREATE TABLE judged_pair (
    tenant  TEXT NOT NULL,
    id      TEXT NOT NULL,
    one     TEXT NOT NULL,
    other   TEXT NOT NULL,
    verdict TEXT NOT NULL,
    decided TEXT NOT NULL DEFAULT '',
    record  TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE INDEX suspicion ON judged_pair (tenant, one, other)
WHERE verdict = 'contradict' AND decided <> 'dismissed';

CREATE TABLE pair_decision (
    number         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant         TEXT NOT NULL,
    pair           TEXT NOT NULL,
    decided        TEXT NOT NULL,
    author         TEXT NOT NULL,
    note           TEXT NOT NULL,
    made_at        INTEGER NOT NULL,
    winner         TEXT NOT NULL,
    winner_version INTEGER NOT NULL
) STRICT;
CREATE INDEX decisions_of_a_pair ON pair_decision (tenant, pair);
CREATE TRIGGER pair_decision_is_never_updated BEFORE UPDATE ON pair_decision
BEGIN SELECT RAISE(ABORT, 'pair_decision is append-only'); END;
CREATE TRIGGER pair_decision_is_never_deleted BEFORE DELETE ON pair_decision
BEGIN SELECT RAISE(ABORT, 'pair_decision is append-only'); END;
"""

_TEXTS = """
ALTER TABLE decision ADD COLUMN kind TEXT NOT NULL DEFAULT 'decision';

CREATE TABLE decision_text (
    number INTEGER PRIMARY KEY REFERENCES decision (number),
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    salt   TEXT NOT NULL,
    texts  TEXT NOT NULL
) STRICT;
CREATE TABLE erased (
    number INTEGER PRIMARY KEY REFERENCES decision (number),
    entry  INTEGER NOT NULL REFERENCES decision (number)
) STRICT;
CREATE TABLE person_key (value BLOB NOT NULL) STRICT;
INSERT INTO person_key VALUES (randomblob(32));

CREATE TRIGGER decision_text_is_never_updated BEFORE UPDATE ON decision_text
BEGIN SELECT RAISE(ABORT, 'texts of decisions are never changed'); END;
CREATE TRIGGER decision_text_is_never_deleted BEFORE DELETE ON decision_text
BEGIN SELECT RAISE(ABORT, 'texts of decisions are overwritten where they stand'); END;
CREATE TRIGGER decision_text_is_never_replaced BEFORE INSERT ON decision_text
WHEN EXISTS (SELECT 1 FROM decision_text WHERE number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'texts of decisions are never changed'); END;
CREATE TRIGGER erased_is_never_updated BEFORE UPDATE ON erased
BEGIN SELECT RAISE(ABORT, 'erased is append-only'); END;
CREATE TRIGGER erased_is_never_deleted BEFORE DELETE ON erased
BEGIN SELECT RAISE(ABORT, 'erased is append-only'); END;
"""

_RULES_BY_TITLE = """
CREATE INDEX rule_by_title ON rule (
    tenant,
    iif(json_valid(record), ifnull(record ->> '$.title', ''), ''),
    iif(json_valid(record), ifnull(record ->> '$.article', ''), '')
);
"""

_BEGUN = """
CREATE TABLE begun (
    tenant  TEXT NOT NULL,
    id      TEXT NOT NULL,
    made_at INTEGER NOT NULL,
    record  TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER decision_ends_what_has_begun AFTER INSERT ON decision
BEGIN DELETE FROM begun WHERE tenant = NEW.tenant AND id = NEW.id; END;
"""

_PREFERENCES = """
CREATE TABLE preference (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    drawer INTEGER NOT NULL,
    person TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX preference_by_drawer ON preference (tenant, drawer);
CREATE TRIGGER preference_is_never_updated BEFORE UPDATE ON preference
WHEN NEW.drawer <> 32767
    OR (NEW.number, NEW.tenant, NEW.person, NEW.record)
    <> (OLD.number, OLD.tenant, OLD.person, OLD.record)
BEGIN SELECT RAISE(ABORT, 'preferences are never changed: state another version'); END;
CREATE TRIGGER preference_is_never_deleted BEFORE DELETE ON preference
BEGIN SELECT RAISE(ABORT, 'preferences are overwritten where they stand'); END;
CREATE TRIGGER preference_is_never_replaced BEFORE INSERT ON preference
WHEN EXISTS (SELECT 1 FROM preference WHERE number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'preferences are never changed: state another version'); END;
"""

MIGRATIONS: tuple[str, ...] = (
    _CREATE + _APPEND_ONLY + _NEVER_REPLACED,
    _KEYS_OF_THE_GATEWAY,
    _PAIRS_OF_RULES,
    _TEXTS,
    _RULES_BY_TITLE,
    _BEGUN,
    _PREFERENCES,
)
"""Migration N (from 1) brings a database from `user_version` N - 1 to N."""
