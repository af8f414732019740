// Package serve shows a site as the web server of a host of static pages does.
package serve

import (
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Handler serves the files of a directory under a path that begins and ends with a slash. What is not there gets
// 404.html.
func Handler(base, dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, within := strings.CutPrefix(path.Clean(r.URL.Path), strings.TrimSuffix(base, "/"))
		file := filepath.Join(dir, filepath.FromSlash(name))
		info, err := os.Stat(file)
		if err == nil && info.IsDir() {
			if !strings.HasSuffix(r.URL.Path, "/") {
				http.Redirect(w, r, path.Base(r.URL.Path)+"/", http.StatusMovedPermanently)
				return
			}
			file = filepath.Join(file, "index.html")
			_, err = os.Stat(file)
		}
		if !within || err != nil {
			content, _ := os.ReadFile(filepath.Join(dir, "404.html")) // without it, an empty answer
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write(content) // the browser has gone
			return
		}
		w.Header().Set("Cache-Control", "no-cache")
		if path.Ext(file) == ".gz" { // a file to be read by the page, not a coding of the answer
			w.Header().Set("Content-Type", "application/gzip")
		}
		content, err := os.Open(file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer content.Close()
		http.ServeContent(w, r, file, time.Time{}, content)
	})
}

// Listen serves a directory until the program is ended.
func Listen(address, base, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "index.html")); err != nil {
		return fmt.Errorf("no site to show: %w; make it with make site", err)
	}
	fmt.Printf("http://%s%s\n", address, base)
	server := http.Server{Addr: address, Handler: Handler(base, dir), ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}
