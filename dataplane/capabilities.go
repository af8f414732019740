package dataplane

// TakeUpCapabilities makes effective what capabilities the process is permitted. A program of an image has them so if
// its file gives them to users other than root without making them effective: then it starts where the container may
// not have them, too (capabilities(7)). It does nothing for root.
func TakeUpCapabilities() { takeUpCapabilities() }
