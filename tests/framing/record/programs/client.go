// Requests of Go's net/http to the address in the first argument.
package main

import (
	"bytes"
	"context"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"strings"
)

func main() {
	base := os.Args[1]
	do := func(method, path string, body io.Reader, set func(*http.Request)) {
		r, err := http.NewRequestWithContext(context.Background(), method, base+path, body)
		if err != nil {
			panic(err)
		}
		if set != nil {
			set(r)
		}
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			panic(err)
		}
		io.Copy(io.Discard, a.Body)
		a.Body.Close()
	}
	do("GET", "/go/get?a=b", nil, nil)
	do("POST", "/go/post", strings.NewReader("hello"), nil)
	do("POST", "/go/chunked", io.MultiReader(strings.NewReader("hello "), strings.NewReader("world")), nil)
	do("PUT", "/go/json", bytes.NewReader([]byte(`{"a":1}`)), func(r *http.Request) { r.Header.Set("Content-Type", "application/json") })
	do("POST", "/go/expect", strings.NewReader("hello"), func(r *http.Request) { r.Header.Set("Expect", "100-continue") })
	do("GET", "/go/close", nil, func(r *http.Request) { r.Close = true })
	do("DELETE", "/go/delete", nil, func(r *http.Request) { r.SetBasicAuth("u", "p") })
	do("POST", "/go/trailer", io.MultiReader(strings.NewReader("hello")), func(r *http.Request) { r.Trailer = http.Header{"X-Sum": {"1"}} })
	do("POST", "/go/nothing", nil, nil)
	do("GET", "/go/cookie", nil, func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "a", Value: "b"}); r.Host = "localhost." })
	http.PostForm(base+"/go/form", url.Values{"a": {"b c"}, "d": {"é"}})
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	w.SetBoundary("xxxxxxxx")
	f, _ := w.CreateFormFile("file", "a.bin")
	f.Write([]byte{0, 1, 13, 10, 13, 10, 255})
	w.Close()
	do("POST", "/go/multipart", &form, func(r *http.Request) { r.Header.Set("Content-Type", w.FormDataContentType()) })
	at, _ := url.Parse(base)
	proxied := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(at)}}
	proxied.Get("http://localhost:8006/go/proxied")
}
