// Package alert watches the stream of events and tells when a rule fires: bursts of mail that failed, a downgrade, a look that
// broke the glass, calls that were denied, a change of policy, a key that was destroyed, a restore.
//
// [New] makes a [Watcher], a securemail.Sink: give it to the Mailer with the other sinks. Rules are data ([Rule]); [Defaults]
// are a start. Where a rule fires, an event of Kind "alert" goes into the Outbox, so that the ledger records it and webhooks carry
// it, and [Options].Notify is called. Its Detail holds the rule, how many events, within which window, and the id of the event
// that fired it; never an address, a name, a subject or a domain. What is about an alert is never counted: no alert begets another.
//
// # Counting
//
// Windows run on the time that events carry, not on a clock: a burst is one however late it is read. Each event counts once by
// its id, of the last 16,384 that came. An alert's id follows from its rule, its group and the event that fired it, so that the
// Outbox takes it once, however often the events are read. After it fired, a rule is quiet for its Cooldown, for that group alone.
// One event is enough for a rule with Count 1, however late it comes; for others, what lies more than Window behind the newest of
// its group is not counted. An event of a time to come counts as of now, so that one wrong clock can't blind a rule.
//
// # Memory
//
// For each rule the newest [Options].Groups groups (tenants, actors) are remembered, up to Count times each; the one that is idle
// longest is forgotten for a new one. A flood of groups of one rule takes nothing from another rule. An idle group of a rule
// with Count 1 is small.
//
// # What a restart loses
//
// Counts and cool-downs are in memory. After a restart the events that were not acknowledged are read again; those before
// are not counted: a burst that goes on across a restart may need up to Count-1 more events to be told, and a rule may fire again
// before its Cooldown ended. Rules with Count 1 lose nothing. Two processes that read as one reader each count what they read.
package alert
