// Package nft puts a Ruleset into the kernel as nftables rules, over netlink
// and without the nft program.
package nft

// Table is the name of the one table this package writes. It never touches another.
const Table = "mesh_intercept"
