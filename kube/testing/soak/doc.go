// Package soak has pods under traffic whose rules several writers apply, replace, repair and remove, with every
// accident that can befall them, for as long as it is told to (make soak MINUTES=10). It counts what happened, and
// fails if anything was lost, or if something never happened.
//
// There is a pod for each backend. Its life is a sequence of rounds, and a round is this, under traffic in both
// families:
//
//   - Rules are applied: from then on they are promised to be in force.
//   - A storm: writers replace them by others (mesh-init, the plugin mesh-cni, the agent mesh-cni-agent) and are
//     killed, are short of memory, and have their netlink calls fail; connection tracking forgets all; interfaces go
//     down and up.
//   - Silence: the rules in force are one of those that were asked for. Then writers fail one at a time, and what they
//     say is compared with what is in force.
//   - Repair: rules that somebody has taken out are put back, by hand and by the agent.
//   - Removal: nothing is left but what was there before.
//
// While rules are promised, no segment that opens a connection of the app's, or carries its data, and no lookup of it
// reaches the other end of the cable; no connection of the proxy's comes back to the proxy; no client reaches the app
// past the proxy.
package soak
