// Package cluster has one test: deploy/ in a cluster of one node, with the
// control plane, kubelet and containerd of the day, built from source by
// `make cluster`. It takes the build tag cluster.
package cluster
