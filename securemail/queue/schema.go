package queue

// schema is the list of migrations; steps are only ever added. Times are microseconds since 1970 in UTC, 0 for none.
//
//   - queue_meta: "epoch" counts the starts of queues, "seq" is the last event number given (PostgreSQL), "index" holds the
//     wrapped key of the keyed hashes, and when it was made.
//   - queue_key: one data key, wrapped. Its id is the submission's, or a random one for events that a part added.
//     idem is the keyed hash of the idempotency key, answer the sealed digest.
//   - queue_body: one body that the parcels of a submission share: sealed bytes, or NULL where they lie in the blob store.
//   - queue_parcel: slip, letter (header and factors) and status are sealed; letter goes when the parcel ends, and so does
//     the body that it names when no open parcel names it. ended is 0 while the parcel is open. due is 0 where nothing happens by itself. lease_epoch is 0 where it is not leased. rev counts changes.
//     opened is when the recipient first read it; it is outside status, which the worker that delivers writes meanwhile.
//     lane is a keyed hash of the recipient's domain, for turns (fair.go); 0 for what was accepted before there were lanes.
//   - queue_event: pos is the order of writing. On SQLite, which has one writer at a time, that is the order of commits and
//     so the event's number; it does not repeat, since the newest event is never purged. On PostgreSQL it is not: a reader gives seq to what is committed, under a lock (outbox.go).
//   - queue_reader: the cursor of each reader of events.
var schema = []string{`
CREATE TABLE queue_meta (
	name TEXT PRIMARY KEY,
	num {int} NOT NULL DEFAULT 0,
	val {bytes});
INSERT INTO queue_meta (name) VALUES ('epoch'), ('seq');
CREATE TABLE queue_key (
	id TEXT PRIMARY KEY,
	tenant TEXT NOT NULL,
	wrapped {bytes} NOT NULL,
	idem {bytes},
	answer {bytes},
	made {int} NOT NULL) {clustered};
CREATE UNIQUE INDEX queue_key_idem ON queue_key (idem) WHERE idem IS NOT NULL;
CREATE TABLE queue_body (
	id TEXT PRIMARY KEY,
	submission TEXT NOT NULL,
	size {int} NOT NULL,
	sealed {bytes}) {clustered};
CREATE TABLE queue_parcel (
	id TEXT PRIMARY KEY,
	submission TEXT NOT NULL,
	tenant TEXT NOT NULL,
	state TEXT NOT NULL,
	priority {int} NOT NULL,
	not_before {int} NOT NULL,
	due {int} NOT NULL,
	ended {int} NOT NULL,
	ref {bytes},
	body TEXT NOT NULL,
	slip {bytes} NOT NULL,
	letter {bytes},
	status {bytes},
	attempt {int} NOT NULL,
	rev {int} NOT NULL,
	lease_owner TEXT NOT NULL,
	lease_epoch {int} NOT NULL,
	lease_until {int} NOT NULL,
	opened {int} NOT NULL DEFAULT 0);
CREATE INDEX queue_parcel_due ON queue_parcel (priority, due, id) WHERE due>0;
CREATE INDEX queue_parcel_lease ON queue_parcel (lease_epoch) WHERE lease_epoch>0;
CREATE INDEX queue_parcel_submission ON queue_parcel (submission, id);
CREATE INDEX queue_parcel_tenant ON queue_parcel (tenant, id);
CREATE INDEX queue_parcel_aside ON queue_parcel (tenant, state, id) WHERE ended=0 AND state NOT IN ('accepted','attempting');
CREATE INDEX queue_parcel_ref ON queue_parcel (ref, id) WHERE ref IS NOT NULL;
CREATE INDEX queue_parcel_body ON queue_parcel (body) WHERE ended=0;
CREATE TABLE queue_label (
	parcel TEXT NOT NULL,
	name TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (name, value, parcel)) {clustered};
CREATE INDEX queue_label_parcel ON queue_label (parcel);
{sqlite}CREATE TABLE queue_event (
	pos INTEGER PRIMARY KEY,
	id TEXT NOT NULL UNIQUE,
	data_key TEXT NOT NULL,
	made {int} NOT NULL,
	sealed {bytes} NOT NULL);
{postgres}CREATE TABLE queue_event (
	pos {serial},
	seq BIGINT UNIQUE,
	id TEXT NOT NULL UNIQUE,
	data_key TEXT NOT NULL,
	made {int} NOT NULL,
	sealed {bytes} NOT NULL);
{postgres}CREATE INDEX queue_event_new ON queue_event (pos) WHERE seq IS NULL;
CREATE INDEX queue_event_key ON queue_event (data_key);
CREATE TABLE queue_reader (
	name TEXT PRIMARY KEY,
	seq {int} NOT NULL);
`, `
ALTER TABLE queue_parcel ADD COLUMN lane {int} NOT NULL DEFAULT 0;
DROP INDEX queue_parcel_due;
DROP INDEX queue_parcel_lease;
DROP INDEX queue_parcel_submission;
DROP INDEX queue_parcel_body;
CREATE INDEX queue_parcel_due ON queue_parcel (priority, due) WHERE due>0 AND lease_epoch=0;
CREATE INDEX queue_parcel_lane ON queue_parcel (priority, tenant, lane, due) WHERE due>0 AND lease_epoch=0;
CREATE INDEX queue_parcel_lease ON queue_parcel (priority, lease_until) WHERE lease_epoch>0;
CREATE INDEX queue_parcel_submission ON queue_parcel (submission, ended, body);
`}
