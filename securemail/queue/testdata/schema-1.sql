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
