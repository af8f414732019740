// Package procfile reads files that the kernel makes as they are read, those of /proc and /sys.
package procfile
