package mtasts

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Handler publishes policies of our own (RFC 8461 section 3.3): for a request to the host mta-sts.DOMAIN it serves the
// policy of DOMAIN at /.well-known/mta-sts.txt, and nothing else. It belongs behind TLS with a certificate for that host.
// Its methods may be called from many goroutines.
type Handler struct {
	texts atomic.Pointer[map[string]string] // policy by host name
}

var _ http.Handler = (*Handler)(nil)

// NewHandler makes a Handler with policies by mail domain; see [Handler.Swap].
func NewHandler(policies map[string]Policy) (*Handler, error) {
	h := &Handler{}
	if err := h.Swap(policies); err != nil {
		return nil, err
	}
	return h, nil
}

// Swap puts policies, by mail domain, in place of all there were, at once for all requests to come. On an error, which
// names each domain whose name or policy is wrong, nothing changes. Publish the record with the new id after the policy,
// not before it: senders fetch when they see the id.
func (h *Handler) Swap(policies map[string]Policy) error {
	texts := make(map[string]string, len(policies))
	var errs []error
	for domain, p := range policies {
		name, err := domainName(domain)
		if err == nil {
			err = p.check()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("mtasts: policy of %q: %w", domain, err))
			continue
		}
		texts["mta-sts."+name] = p.String()
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	h.texts.Store(&texts)
	return nil
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	name, err := canonical(host)
	text, ok := (*h.texts.Load())[name]
	switch {
	case err != nil || !ok || r.URL.Path != wellKnown:
		http.NotFound(w, r)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, text) // The client has gone; nobody is left to tell.
	}
}

// NewID makes the id for a policy that is published from the time on: the time in UTC, to the second, and a fingerprint of
// the policy. Two policies have two ids even within a second, and a policy that comes back gets an id of its own.
func NewID(p Policy, from time.Time) string {
	sum := sha256.Sum256([]byte(p.String()))
	return from.UTC().Format("20060102150405") + hex.EncodeToString(sum[:6])
}
