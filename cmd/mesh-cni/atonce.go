package main

import (
	"io"
	"os"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/utils"
	"golang.org/x/sys/unix"
)

// atOnce answers an ADD of a pod that is not ours, and reports whether it did.
// What is amiss with the call or the entry, and what a pod asks for, is left to
// skel and the long way. They come to the same.
func (p *plugin) atOnce(stdin []byte) bool {
	args := &skel.CmdArgs{
		ContainerID: os.Getenv("CNI_CONTAINERID"), Netns: os.Getenv("CNI_NETNS"), IfName: os.Getenv("CNI_IFNAME"),
		Args: os.Getenv("CNI_ARGS"), Path: os.Getenv("CNI_PATH"), StdinData: stdin,
	}
	in, err := readInput(args)
	if err != nil || in.confErr != nil || in.err != nil || !complete(args, in) {
		return false
	}
	why := in.foreign()
	if why == "" {
		return false
	}
	result, err := in.passed()
	if err != nil {
		return false
	}
	p.result = result
	p.left = func() { report{in: in, command: "ADD", begun: p.begun}.skip(why) }
	return true
}

// complete reports whether skel would find nothing amiss with a call.
func complete(args *skel.CmdArgs, in input) bool {
	return args.Netns != "" && args.Path != "" && slices.Contains(versions(), in.cniVersion) &&
		utils.ValidateContainerID(args.ContainerID) == nil && utils.ValidateInterfaceName(args.IfName) == nil && utils.ValidateNetworkName(in.network) == nil
}

// again makes standard input what was read of it: skel takes it from nowhere
// else.
func again(input []byte) error {
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), "stdin")
	if _, err := file.Write(input); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	os.Stdin = file
	return nil
}
