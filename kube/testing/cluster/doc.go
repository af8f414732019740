// Package cluster has tests in a cluster of one node, with the control plane, kubelet,
// kube-proxy, CoreDNS and containerd of the day, built from source by `make cluster`: a
// life of the node's agent, the scenario of docs/scenario.md, and the commands of
// docs/getting-started.md. It takes the build tag cluster.
package cluster
