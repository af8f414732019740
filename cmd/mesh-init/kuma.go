package main

import "github.com/mesh-intercept/intercept/internal/peers/kuma"

func kumaDropIn() dropIn {
	return dropIn{
		name: "kuma", does: "do as kumactl install transparent-proxy does, with its flags",
		called: []string{"kumactl"}, read: kuma.Parse,
	}
}
