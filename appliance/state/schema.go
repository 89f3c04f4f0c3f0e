package state

import (
	"fmt"
	"strings"
)

// schema is the way from an empty file to the current one, a step per
// user_version. A step that was released is never changed.
var schema = []string{
	`CREATE TABLE orders   (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;
	 CREATE TABLE leases   (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;
	 CREATE TABLE tickets  (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;
	 CREATE TABLE machines (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;
	 CREATE TABLE tokens   (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;
	 CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, time INTEGER NOT NULL, doc TEXT NOT NULL) STRICT;
	 CREATE TABLE audit  (seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, time INTEGER NOT NULL, doc TEXT NOT NULL) STRICT;
	 CREATE INDEX events_key ON events (key);
	 CREATE INDEX audit_key ON audit (key);`,
	`CREATE TABLE firmware (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;
	 CREATE TABLE dialects (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;`,
	`CREATE TABLE outbox (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;`,
	`CREATE TABLE bmcs (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;`,
	`CREATE TABLE powers (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;`,
	`CREATE TABLE uplinks (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;
	 CREATE TABLE modems  (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;
	 CREATE TABLE volumes (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;
	 CREATE TABLE texts   (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;`,
	`CREATE TABLE alarms (key TEXT PRIMARY KEY NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID;`,
}

// migrate takes the file from its user_version to the last step, each step
// whole or not at all.
func (c *conn) migrate(steps []string) error {
	version, err := c.number("PRAGMA user_version")
	if err != nil {
		return err
	}
	if version > int64(len(steps)) {
		return fmt.Errorf("it was written by a newer rescueboxd (schema %d, this one knows %d): install that version again, or move the file away", version, len(steps))
	}
	for i := int(version); i < len(steps); i++ {
		step := fmt.Sprintf("BEGIN EXCLUSIVE; %s; PRAGMA user_version = %d; COMMIT", strings.TrimRight(steps[i], "; \n"), i+1)
		if err := c.script(step); err != nil {
			_ = c.script("ROLLBACK")
			return fmt.Errorf("migrate to schema %d: %w", i+1, err)
		}
	}
	return nil
}
