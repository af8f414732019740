# Two network namespaces, joined by a cable: a pod, and the world. To be read by bash, as root: . ../pod.sh
#
#	pod                             world
#	10.244.0.5  ─── eth0 ─── eth0 ─── 10.244.0.1            the pod's gateway
#	fd00:244::5                      fd00:244::1
#	                                 203.0.113.10, 203.0.113.66, 2001:db8::10, 2001:db8::66    servers
#	                                 10.96.0.10, fd00:96::a                                    name servers
ip netns add pod
ip netns add world
ip -n pod link add eth0 type veth peer name eth0 netns world
for namespace in pod world; do
	ip -n $namespace link set lo up
	ip -n $namespace link set eth0 up
done
ip -n pod address add 10.244.0.5/24 dev eth0
ip -n pod address add fd00:244::5/64 dev eth0 nodad
ip -n world address add 10.244.0.1/24 dev eth0
ip -n world address add fd00:244::1/64 dev eth0 nodad
for address in 203.0.113.10 203.0.113.66 10.96.0.10 2001:db8::10 2001:db8::66 fd00:96::a; do
	ip -n world address add $address dev lo
done
ip -n pod route add default via 10.244.0.1
ip -n pod route add default via fd00:244::1

# ip netns exec pod has this in the place of /etc/resolv.conf, as kubelet gives a pod its own.
mkdir -p /etc/netns/pod
echo nameserver 10.96.0.10 > /etc/netns/pod/resolv.conf

. ../words.sh
