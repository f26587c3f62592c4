// Package crash is a lane of tests: it kills the whole library with SIGKILL while it accepts and delivers, again and
// again, and then counts. Nothing accepted may be lost, and a message may arrive twice only where an uncertain delivery
// was reported for it.
package crash
