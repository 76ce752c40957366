// Guestbook of one customer, a line per guest in a file in $DATA_DIR. It takes an already listening socket
// (listen = "fd"): connections wait there while it starts, and it needs no right to open a port of its own.
//
//	go build -o /srv/guestbook/guestbook guestbook.go
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// The first descriptor that systemd hands over, see sd_listen_fds(3).
const firstDescriptor = 3

type guestbook struct {
	mutex sync.Mutex
	path  string
}

// sign appends a guest's line.
func (book *guestbook) sign(line string) error {
	book.mutex.Lock()
	defer book.mutex.Unlock()
	file, err := os.OpenFile(book.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintln(file, line)
	return err
}

// ServeHTTP shows the guestbook, or signs it.
func (book *guestbook) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	log.Println(request.Method, request.URL.Path)
	if request.Method == http.MethodPost {
		content, err := io.ReadAll(http.MaxBytesReader(response, request.Body, 1000))
		line := strings.Join(strings.Fields(string(content)), " ")
		if err != nil || line == "" {
			http.Error(response, "A guest leaves one line.", http.StatusBadRequest)
			return
		}
		if err := book.sign(line); err != nil {
			http.Error(response, "The guestbook is closed.", http.StatusInternalServerError)
			log.Println(err)
			return
		}
		response.WriteHeader(http.StatusCreated)
		return
	}
	content, err := os.ReadFile(book.path)
	if err != nil && !os.IsNotExist(err) {
		http.Error(response, "The guestbook is closed.", http.StatusInternalServerError)
		log.Println(err)
		return
	}
	response.Header().Set("Content-Type", "text/plain; charset=utf-8")
	response.Write(content)
}

func main() {
	log.SetFlags(0)
	listener, err := net.FileListener(os.NewFile(firstDescriptor, "listener"))
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(response http.ResponseWriter, _ *http.Request) { fmt.Fprintln(response, "ok") })
	mux.Handle("/", &guestbook{path: filepath.Join(os.Getenv("DATA_DIR"), "guests")})
	log.Fatal(http.Serve(listener, mux))
}
