// Publishes a fixed set of bodies with Go's net/http: publish URL TOPIC FOLDER.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	url, topic, folder := os.Args[1], os.Args[2], os.Args[3]
	connections := 0
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !info.Reused {
			connections++
		}
	}}
	post := func(name, target string, body io.Reader) {
		ctx := httptrace.WithClientTrace(context.Background(), trace)
		request, err := http.NewRequestWithContext(ctx, "POST", url+target, body)
		check(err)
		response, err := http.DefaultClient.Do(request)
		check(err)
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		check(err)
		fmt.Println(name, response.StatusCode, string(answer))
	}
	file := func(name string) []byte {
		content, err := os.ReadFile(filepath.Join(folder, name))
		check(err)
		return content
	}
	post("bytes", "/pub?topic="+topic, bytes.NewReader(file("bytes")))
	post("large", "/pub?topic="+topic, bytes.NewReader(file("large")))
	post("empty", "/pub?topic="+topic, strings.NewReader(""))
	post("lines", "/mpub?topic="+topic, bytes.NewReader(file("lines")))
	post("batch", "/mpub?binary=true&topic="+topic, bytes.NewReader(file("batch")))
	// A reader whose length net/http cannot know goes out in chunks.
	post("chunks", "/pub?topic="+topic, io.MultiReader(bytes.NewReader(file("bytes"))))
	if connections != 1 {
		check(fmt.Errorf("%d connections for requests one after another", connections))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
