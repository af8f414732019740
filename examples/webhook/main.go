// Command webhook is a mutating admission webhook that adds a sidecar to the pods that a cluster creates, and what
// sends their traffic through it. It is an example: how a webhook of one's own calls the library.
package main

import (
	"flag"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/mesh-intercept/intercept/podspec/inject"
)

func main() {
	log.SetFlags(0)
	listen := flag.String("listen", ":8443", "where to listen")
	cert := flag.String("cert", "tls.crt", "the certificate's file")
	key := flag.String("key", "tls.key", "the file of its key")
	path := flag.String("profile", "", "a file that says what to inject; if not given, HAProxy")
	flag.Parse()

	text, source := []byte(inject.ShippedText("haproxy")), "haproxy"
	if *path != "" {
		var err error
		if text, err = os.ReadFile(*path); err != nil {
			log.Fatal(err)
		}
		source = *path
	}
	profile, err := inject.ParseProfile(source, text)
	if err != nil {
		log.Fatal(err) // all that is wrong with it, by line
	}
	server := http.Server{Addr: *listen, Handler: handler(profile), ReadTimeout: 10 * time.Second,
		WriteTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServeTLS(*cert, *key))
}
