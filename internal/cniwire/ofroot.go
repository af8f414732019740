package cniwire

import "net"

// OfRoot is a listener at a UNIX socket that closes connections of other users' processes at once. It is for protocols
// other than this package's, whose [Server] sees to that itself.
func OfRoot(l net.Listener) net.Listener { return ofRoot{l} }

type ofRoot struct{ net.Listener }

// Accept implements [net.Listener].
func (l ofRoot) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || known(conn) == nil {
			return conn, err
		}
		_ = conn.Close() // it has not been used
	}
}
