package httpapi_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/httpapi"
	"github.com/postseal/postseal/transport/transporttest"
)

// far is a provider in process.
type far struct {
	transporttest.Recorder
	setup  transporttest.Setup
	now    atomic.Value // transporttest.Behaviour
	cert   tls.Certificate
	srv    *http.Server
	closed chan struct{}
	serial atomic.Int64
	once   sync.Once
}

// serve listens as the setup asks and returns the address.
func (f *far) serve(pki *transporttest.PKI) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	cfg, err := pki.Server(f.setup.Behaviour)
	if err != nil {
		return "", err
	}
	f.closed = make(chan struct{})
	f.cert = cfg.Certificates[0]
	f.now.Store(f.setup.Behaviour)
	f.srv = &http.Server{Handler: f, ErrorLog: nil}
	f.srv.ErrorLog = discardLog
	switch f.setup.Behaviour {
	case transporttest.Refuse:
		return ln.Addr().String(), ln.Close()
	case transporttest.Stall: // connections wait in the kernel's queue
		go func() { <-f.closed; ln.Close() }()
	case transporttest.NoTLS:
		go f.srv.Serve(ln)
	default:
		go f.srv.Serve(tls.NewListener(ln, cfg))
	}
	return ln.Addr().String(), nil
}

func (f *far) close() {
	f.once.Do(func() {
		close(f.closed)
		f.srv.Close()
	})
}

// ServeHTTP records the request and answers it.
func (f *far) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	behave := f.now.Load().(transporttest.Behaviour)
	head, _ := httputil.DumpRequest(r, false)
	f.Write(head)
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(r.Body, f), r.Body}
	switch behave {
	case transporttest.Busy:
		w.Header().Set("Retry-After", "7")
		http.Error(w, "busy "+f.setup.Echo, http.StatusTooManyRequests)
		return
	case transporttest.Garbage, transporttest.DropBeforeBody:
		f.hijack(w, behave)
		return
	}
	to, msg, err := unpack(r)
	if err != nil {
		http.Error(w, "incomplete", http.StatusBadRequest)
		return
	}
	d := transporttest.Delivery{Recipients: []string{to}, Message: msg, Accepted: true}
	if r.TLS != nil {
		d.TLS = transporttest.FactsOf(*r.TLS, f.cert)
	}
	d.Accepted = behave != transporttest.TempFail && behave != transporttest.PermFail
	f.Add(d)
	f.reply(w, behave)
}

// reply is the answer to a whole message.
func (f *far) reply(w http.ResponseWriter, behave transporttest.Behaviour) {
	switch behave {
	case transporttest.TempFail:
		w.WriteHeader(http.StatusServiceUnavailable)
	case transporttest.PermFail:
		w.WriteHeader(http.StatusUnprocessableEntity)
	case transporttest.SilentAfterBody:
		<-f.closed
		return
	case transporttest.DropAfterBody, transporttest.GarbageAfterBody:
		f.hijack(w, behave)
		return
	case transporttest.HugeReply:
		chunk := bytes.Repeat([]byte("{\"x\": 1},\n"), 6400)
		for n := 0; n < transporttest.HugeSize; n += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		return
	default:
		w.Header().Set("X-Message-Id", fmt.Sprintf("queue-%d", f.serial.Add(1)))
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"text": f.setup.Echo, "result": map[string]any{"id": fmt.Sprintf("id-%d", f.serial.Load())},
	})
}

func (f *far) hijack(w http.ResponseWriter, behave transporttest.Behaviour) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	if behave == transporttest.Garbage || behave == transporttest.GarbageAfterBody {
		fmt.Fprintf(c, "\x00\x01 %s\r\n\r\n220 hello\r\n", f.setup.Echo)
	}
}

// unpack takes recipient and message out of each of the three forms.
func unpack(r *http.Request) (to string, msg []byte, err error) {
	switch ct := r.Header.Get("Content-Type"); {
	case strings.HasPrefix(ct, "multipart/form-data"):
		if err := r.ParseMultipartForm(32 << 20); err != nil {
			return "", nil, err
		}
		file, _, err := r.FormFile("mime")
		if err != nil {
			return "", nil, err
		}
		msg, err = io.ReadAll(file)
		return r.FormValue("to"), msg, err
	case ct == "application/json":
		var body struct {
			To      []string
			Content struct{ Raw string }
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			return "", nil, err
		}
		msg, err = base64.StdEncoding.DecodeString(body.Content.Raw)
		return body.To[0], msg, err
	}
	msg, err = io.ReadAll(r.Body)
	return r.Header.Get("X-Rcpt-To"), msg, err
}

var mappings = map[string]httpapi.Mapping{
	"raw": {
		From: httpapi.Place{Header: "X-Mail-From"}, To: httpapi.Place{Header: "X-Rcpt-To", Query: "to"},
		Key: httpapi.Place{Header: "Idempotency-Key"}, IDHeader: "X-Message-Id", IDPointer: "/result/id",
	},
	"multipart": {
		Form: httpapi.FormMultipart, Message: "mime", From: httpapi.Place{Field: "from"}, To: httpapi.Place{Field: "to"},
		Fields: map[string]string{"o:tracking": "no"}, IDPointer: "/result/id",
	},
	"json": {
		Form:     httpapi.FormJSON,
		Template: `{"from":"{{from}}","to":["{{to}}"],"key":"{{key}}","content":{"raw":"{{message}}"}}`, IDPointer: "/text",
	},
}

// rig wires a Transport with mapping m to a far end.
func rig(m httpapi.Mapping) func(context.Context, transporttest.Setup) (*transporttest.Rig, error) {
	return func(_ context.Context, s transporttest.Setup) (*transporttest.Rig, error) {
		switch s.Behaviour {
		case transporttest.StripTLS:
			return nil, fmt.Errorf("HTTPS has no offer of TLS that could be removed: %w", errors.ErrUnsupported)
		case transporttest.RejectRecipient, transporttest.DeferRecipient:
			return nil, fmt.Errorf("HTTP answers once, behind the message: %w", errors.ErrUnsupported)
		}
		pki, err := transporttest.NewPKI("127.0.0.1")
		if err != nil {
			return nil, err
		}
		f := &far{setup: s}
		addr, err := f.serve(pki)
		if err != nil {
			return nil, err
		}
		o := &httpapi.Options{
			RootCAs: pki.Roots(), Credentials: httpapi.Credentials{Bearer: securemail.NewSecret("token")},
			Operator: &securemail.Operator{Name: "Provider", Agreement: "BAA-1", Until: time.Now().Add(time.Hour)},
		}
		switch s.Behaviour {
		case transporttest.Relay:
			o.Operator = nil
		case transporttest.LapsedRelay:
			o.Operator.Until = time.Now().Add(-time.Hour)
		}
		t, err := httpapi.New("https://"+addr+"/v1/send?tenant=7", m, o)
		if err != nil {
			return nil, err
		}
		return &transporttest.Rig{
			Transport: t, Prober: t, Far: f,
			Recover: func() { f.now.Store(transporttest.Accept) },
			Close:   func() { t.Close(); f.close() },
		}, nil
	}
}
