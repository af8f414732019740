# A virtual machine behind the pod, as KubeVirt has it with masquerade: a bridge in the pod, the machine behind it, and
# NAT between the machine and the pod's addresses. A namespace stands for the machine. To be read after ../pod.sh.
ip netns add vm
ip -n pod link add k6t-eth0 type bridge
ip -n pod link add tap0 type veth peer name eth0 netns vm
ip -n pod link set tap0 master k6t-eth0 up
ip -n pod link set k6t-eth0 up
ip -n vm link set lo up
ip -n vm link set eth0 up
ip -n pod address add 10.0.2.1/24 dev k6t-eth0
ip -n pod address add fd10:0:2::1/120 dev k6t-eth0 nodad
ip -n vm address add 10.0.2.2/24 dev eth0
ip -n vm address add fd10:0:2::2/120 dev eth0 nodad
ip -n vm route add default via 10.0.2.1
ip -n vm route add default via fd10:0:2::1

ip netns exec pod sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
ip netns exec pod nft -f - <<'NFT'
table inet machine {
	chain postrouting {
		type nat hook postrouting priority 100
		iifname "k6t-eth0" oifname "eth0" masquerade
	}
	chain prerouting {
		type nat hook prerouting priority -100
		iifname "eth0" tcp dport 8080 dnat ip to 10.0.2.2
		iifname "eth0" tcp dport 8080 dnat ip6 to fd10:0:2::2
	}
}
NFT

vm() { inside vm "$@"; }
no_vm() {
	kill $(ip netns pids vm)
	ip netns delete vm
}
