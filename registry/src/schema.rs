//! The catalogue's schema: one migration after another, never edited, only appended to. The index is SQLite's
//! `user_version`.

/// Migrations in order.
pub(crate) const MIGRATIONS: &[&str] = &[CATALOGUE_AND_QUEUE, LOG_AND_FIELDS, RUNS, MORE_FIELDS, WORDS];

/// What is derived (fields, edges, runs) is what it is now since this many of them.
pub(crate) const DERIVED_SINCE: i64 = 4;

/// Needs of the job `jobs` that have not ended: what its column `deps_left` is derived from.
pub const NEEDS_LEFT: &str = "(SELECT COUNT(*) FROM job_needs n JOIN jobs p ON p.id = n.needs
   WHERE n.job = jobs.id AND p.state NOT IN ('succeeded','cancelled','dead'))";

const CATALOGUE_AND_QUEUE: &str = "
CREATE TABLE adapters(
  id TEXT PRIMARY KEY, spec_hash TEXT NOT NULL UNIQUE, behaviour TEXT NOT NULL, family TEXT NOT NULL,
  status TEXT NOT NULL, role TEXT NOT NULL, record TEXT NOT NULL) STRICT;
CREATE INDEX adapters_behaviour ON adapters(behaviour);
CREATE TABLE cache(key TEXT PRIMARY KEY, digest TEXT NOT NULL) STRICT;
CREATE TABLE jobs(
  id INTEGER PRIMARY KEY, spec_hash TEXT NOT NULL UNIQUE, spec TEXT NOT NULL, label TEXT NOT NULL, family TEXT NOT NULL,
  pack_key TEXT NOT NULL, priority INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT 'queued' CHECK(state IN ('queued','leased','running','retry_wait','succeeded','cancelled','dead')),
  attempt INTEGER NOT NULL DEFAULT 0, max_attempts INTEGER NOT NULL DEFAULT 8, run_after_ms INTEGER NOT NULL DEFAULT 0,
  lease_token INTEGER NOT NULL DEFAULT 0, lease_owner TEXT, lease_until_ms INTEGER, adapter TEXT, error_class TEXT, error TEXT) STRICT;
CREATE INDEX jobs_ready ON jobs(priority DESC, id) WHERE state IN ('queued','retry_wait');
CREATE INDEX jobs_lease ON jobs(lease_until_ms) WHERE state IN ('leased','running');
CREATE TABLE events(
  id INTEGER PRIMARY KEY, job INTEGER NOT NULL REFERENCES jobs(id), from_state TEXT NOT NULL, to_state TEXT NOT NULL,
  token INTEGER NOT NULL, at_ms INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;
";

/// A job's state is a cache of its last event: triggers write the event of every change, refuse changes that the state
/// machine does not have, and keep events from being altered. Whatever changes `state` sets `changed_ms` and `why` with it.
///
/// `fields` holds what filters look at, one row a field, so that a query is an index lookup. It is derived from records.
const LOG_AND_FIELDS: &str = "
ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'adapter';
ALTER TABLE jobs ADD COLUMN base TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
ALTER TABLE jobs ADD COLUMN deps_left INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN cancel_requested INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN changed_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN why TEXT NOT NULL DEFAULT '';
UPDATE jobs SET base = substr(pack_key, 1, instr(pack_key, '|') - 1) WHERE instr(pack_key, '|') > 0;
DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs(base, priority DESC, id) WHERE state IN ('queued','retry_wait') AND deps_left = 0;
CREATE INDEX jobs_pack ON jobs(pack_key, priority DESC, id) WHERE state IN ('queued','retry_wait') AND deps_left = 0;
CREATE INDEX jobs_states ON jobs(state, family);
CREATE INDEX jobs_label ON jobs(label);
CREATE INDEX events_job ON events(job);
CREATE TABLE job_needs(
  job INTEGER NOT NULL REFERENCES jobs(id), needs INTEGER NOT NULL REFERENCES jobs(id),
  only_ok INTEGER NOT NULL, PRIMARY KEY(job, needs)) STRICT, WITHOUT ROWID;
CREATE INDEX job_needs_back ON job_needs(needs);
CREATE TABLE tag_limits(tag TEXT PRIMARY KEY, most INTEGER NOT NULL) STRICT;
CREATE TABLE settings(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE workers(
  owner TEXT PRIMARY KEY, doing TEXT NOT NULL, tokens_per_sec REAL NOT NULL, done INTEGER NOT NULL,
  started_ms INTEGER NOT NULL, seen_ms INTEGER NOT NULL) STRICT;
CREATE TABLE job_lines(
  id INTEGER PRIMARY KEY, job INTEGER NOT NULL REFERENCES jobs(id), after_event INTEGER NOT NULL, at_ms INTEGER NOT NULL, line TEXT NOT NULL) STRICT;
CREATE INDEX job_lines_job ON job_lines(job);

CREATE TABLE legal(from_state TEXT NOT NULL, to_state TEXT NOT NULL, PRIMARY KEY(from_state, to_state)) STRICT, WITHOUT ROWID;
INSERT INTO legal VALUES
  ('queued','leased'), ('queued','cancelled'), ('queued','dead'), ('queued','succeeded'),
  ('leased','running'), ('leased','queued'), ('leased','retry_wait'), ('leased','cancelled'), ('leased','dead'),
  ('running','succeeded'), ('running','queued'), ('running','retry_wait'), ('running','cancelled'), ('running','dead'),
  ('retry_wait','leased'), ('retry_wait','cancelled'), ('retry_wait','dead'), ('retry_wait','succeeded'),
  ('dead','queued'), ('cancelled','queued'), ('succeeded','queued');
CREATE TRIGGER jobs_legal BEFORE UPDATE OF state ON jobs
  WHEN NOT EXISTS (SELECT 1 FROM legal WHERE from_state = OLD.state AND to_state = NEW.state)
  BEGIN SELECT RAISE(ABORT, 'illegal transition'); END;
CREATE TRIGGER jobs_logged AFTER UPDATE OF state ON jobs BEGIN
  INSERT INTO events(job, from_state, to_state, token, at_ms, reason)
  VALUES (NEW.id, OLD.state, NEW.state, NEW.lease_token, NEW.changed_ms, NEW.why); END;
CREATE TRIGGER jobs_submitted AFTER INSERT ON jobs BEGIN
  INSERT INTO events(job, from_state, to_state, token, at_ms, reason)
  VALUES (NEW.id, '', NEW.state, NEW.lease_token, NEW.changed_ms, NEW.why); END;
CREATE TRIGGER events_kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are only ever appended'); END;
CREATE TRIGGER events_fixed BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are only ever appended'); END;

CREATE TABLE fields(
  adapter TEXT NOT NULL REFERENCES adapters(id) ON DELETE CASCADE, key TEXT NOT NULL, text TEXT NOT NULL, number REAL,
  PRIMARY KEY(adapter, key)) STRICT, WITHOUT ROWID;
CREATE INDEX fields_text ON fields(key, text, adapter);
CREATE INDEX fields_number ON fields(key, number, adapter) WHERE number IS NOT NULL;
CREATE TABLE edges(child TEXT NOT NULL REFERENCES adapters(id) ON DELETE CASCADE, kind TEXT NOT NULL, parent TEXT NOT NULL,
  PRIMARY KEY(child, kind, parent)) STRICT, WITHOUT ROWID;
CREATE INDEX edges_back ON edges(parent);
CREATE TABLE aliases(name TEXT PRIMARY KEY, adapter TEXT NOT NULL) STRICT;
CREATE TABLE catalogue_events(id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, what TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL) STRICT;
";

/// Which adapters a run asked and through which readers. It is derived from the runs' files.
const RUNS: &str = "
CREATE TABLE run_edges(run TEXT NOT NULL, kind TEXT NOT NULL, adapter TEXT NOT NULL, PRIMARY KEY(run, kind, adapter)) STRICT, WITHOUT ROWID;
CREATE INDEX run_edges_back ON run_edges(adapter);
";

/// All columns of records and tags by their full names are fields since then (what is derived is filed again), and
/// values are looked up alone.
const MORE_FIELDS: &str = "CREATE INDEX adapters_family ON adapters(family);";

/// Fields that are no number: what text is sorted by, and what tells at once whether a field ever is text. (The last
/// column, always null, is there because SQLite would else look each row up to see that it is.)
const WORDS: &str = "CREATE INDEX fields_words ON fields(key, text, adapter, number) WHERE number IS NULL;";
