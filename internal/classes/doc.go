// Package classes says what rules do to all packets, and not to samples of them.
//
// Every constant of a Ruleset cuts a field of packets (an address, a port, an owner, conntrack's state) into ranges. For
// all values of a range the rules do the same, so one stands for all. Which ranges have to be told apart depends on what
// a rule asks before, so the rules are made into a decision diagram: a graph that asks for one field after the other
// and ends in the fate. Equal parts of it are one, so that it stays small where a table of all combinations would not,
// and two Rulesets do the same exactly if their diagrams are the same. A list of thousands of addresses is two values of
// its field: on the list, and not on it.
//
// A fate is what [ruleset.Ruleset.Trace] says. The package does no I/O, and imports the standard library and package
// ruleset alone.
package classes
