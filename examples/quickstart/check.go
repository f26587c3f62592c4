package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/emersion/go-message"

	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
)

// check looks at what was delivered, as each recipient and as a thief would.
type check struct {
	ctx    context.Context
	sys    *preset.System
	hosts  *hosts
	reader securemail.Secret // the PGP user's private key
	dir    string
	files  int // searched
}

func (c *check) all(sub *securemail.Submission) ([]row, error) {
	var errs []error
	opened := make(map[string]string)
	for _, p := range people() {
		var err error
		if opened[p.address], err = c.open(p); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	errs = append(errs, c.wires(), c.disk(), c.ledger())
	byAddress := make(map[string]securemail.Status)
	for st, err := range c.sys.Find(c.ctx, securemail.Query{Submission: sub.ID}) {
		if err != nil {
			return nil, err
		}
		byAddress[st.Recipient.Address.Reveal()] = st
	}
	var rows []row
	for _, p := range people() {
		st := byAddress[p.address]
		r := rowOf(p, st, opened[p.address])
		if !r.OK {
			errs = append(errs, fmt.Errorf("%s: not as expected", p.name))
		}
		rows = append(rows, r)
	}
	return rows, errors.Join(errs...)
}

func rowOf(p person, st securemail.Status, opened string) row {
	r := row{Recipient: p.address, Kind: p.name, State: string(st.State), Opened: opened, Used: "-", Evidence: "-", Receipt: "-"}
	var tried, why []string
	for _, reason := range st.Reasons {
		if m, ok := strings.CutPrefix(reason.Rule, "choice/"); ok {
			tried = append(tried, m)
			if reason.Text != "used" {
				why = append(why, m+": "+reason.Text)
			}
		}
	}
	r.Tried, r.Why = strings.Join(tried, " > "), strings.Join(why, "; ")
	r.OK = st.State == p.state
	if st.State != securemail.StateDelivered {
		r.Used = string(st.State)
		return r
	}
	r.Used = string(st.Choice.Method)
	r.Evidence = evidence(st)
	r.Receipt = st.Receipt.Time.UTC().Format("15:04:05Z") + " " + st.Receipt.Peer
	r.OK = r.OK && st.Choice.Method == p.by && r.Evidence != "" && opened != ""
	if p.by == securemail.MethodEscrow {
		r.OK = r.OK && !st.Read.IsZero()
	}
	if p.by == securemail.MethodTLS {
		r.Why = "proof: " + string(st.Receipt.Proof)
		r.OK = r.OK && st.Receipt.Meets(securemail.ChannelNamed)
	}
	return r
}

// evidence is the key's fingerprint for a sealed message, the deposit for escrow, the session for TLS.
func evidence(st securemail.Status) string {
	switch p := st.Protection; {
	case st.Choice.Method == securemail.MethodPGP && p != nil && len(p.Keys) > 0:
		return "key " + p.Keys[0]
	case st.Choice.Method == securemail.MethodEscrow && p != nil:
		return p.Algorithm
	case st.Receipt.TLS != nil:
		return tls.VersionName(st.Receipt.TLS.Version) + " " + tls.CipherSuiteName(st.Receipt.TLS.Suite)
	}
	return ""
}

// open reads the message as the recipient would, and says how.
func (c *check) open(p person) (string, error) {
	if p.by == "" {
		return "-", nil
	}
	mail, err := c.mailTo(p.address)
	if err != nil {
		return "", err
	}
	switch p.by {
	case securemail.MethodTLS:
		return "in the mailbox", contains("mail", mail.Data, patient)
	case securemail.MethodPGP:
		return "with the private key", c.decrypt(mail.Data)
	}
	link := regexp.MustCompile(`http://[^\s"<>]+/m/[A-Za-z0-9_-]+`).Find(mail.Data)
	if link == nil {
		return "", errors.New("no link in the notice")
	}
	return c.pickUp(p, string(link))
}

func (c *check) mailTo(address string) (smtppeer.Message, error) {
	_, domain, _ := strings.Cut(address, "@")
	ms := c.hosts.peers[domain].Messages()
	for _, m := range slices.Backward(ms) {
		if slices.Contains(m.Rcpts, address) {
			return m, nil
		}
	}
	return smtppeer.Message{}, errors.New("no mail arrived")
}

func (c *check) decrypt(data []byte) error {
	m, err := securemail.NewMessage(securemail.Bytes(data))
	if err != nil {
		return err
	}
	o, err := pgp.Open(c.ctx, m, &pgp.OpenOptions{Keys: []securemail.Secret{c.reader}})
	if err != nil {
		return err
	}
	r, err := o.Payload.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return contains("decrypted message", b, patient)
}

// pickUp goes to the page, proves who it is, and reads: two page loads and one typed secret.
func (c *check) pickUp(p person, link string) (string, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return "", err
	}
	browser := &http.Client{Jar: jar}
	if page, err := get(browser, link); err != nil || bytes.Contains(page, []byte("Johanna")) {
		return "", fmt.Errorf("first page: %w", cmpErr(err, "shows the patient"))
	}
	form, how := url.Values{"access_code": {p.code}}, "with the access code"
	if p.code == "" {
		code, err := c.mailedCode(browser, link, p.address)
		if err != nil {
			return "", err
		}
		form, how = url.Values{"code": {code}}, "with a mailed code"
	}
	page, err := post(browser, link, form)
	if err != nil {
		return "", err
	}
	return how, contains("page", page, patient)
}

// mailedCode asks for a code and reads it from the recipient's mailbox, where it came over TLS.
func (c *check) mailedCode(browser *http.Client, link, address string) (string, error) {
	if _, err := post(browser, link, url.Values{"action": {"send"}}); err != nil {
		return "", err
	}
	if _, err := c.sys.RunDue(c.ctx); err != nil {
		return "", err
	}
	m, err := c.mailTo(address)
	if err != nil {
		return "", err
	}
	e, err := message.Read(bytes.NewReader(m.Data))
	if err != nil {
		return "", err
	}
	text := ""
	err = e.Walk(func(_ []int, part *message.Entity, err error) error {
		if err != nil || part.MultipartReader() != nil {
			return err
		}
		b, err := io.ReadAll(part.Body)
		text += string(b)
		return err
	})
	code := regexp.MustCompile(`\b[0-9]{4} ?[0-9]{4}\b`).FindString(text)
	if err == nil && code == "" {
		err = errors.New("no code in the mail")
	}
	return code, err
}

func get(browser *http.Client, link string) ([]byte, error) {
	resp, err := browser.Get(link)
	return read(resp, err)
}

func post(browser *http.Client, link string, form url.Values) ([]byte, error) {
	resp, err := browser.PostForm(link, form)
	return read(resp, err)
}

func read(resp *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the portal answered %s", resp.Status)
	}
	return b, err
}

func cmpErr(err error, text string) error {
	if err != nil {
		return err
	}
	return errors.New(text)
}

func contains(where string, b []byte, text string) error {
	if !bytes.Contains(b, []byte(text)) {
		return fmt.Errorf("the %s does not show the message", where)
	}
	return nil
}

// wires searches what every host but the verified one received, and what the clear ones saw of the envelope's content.
func (c *check) wires() error {
	for domain, peer := range c.hosts.peers {
		if domain == "verified.example" {
			continue
		}
		for _, m := range peer.Attempts() {
			if bytes.Contains(m.Data, []byte("Johanna")) || bytes.Contains(m.Data, []byte("cardiology")) {
				return fmt.Errorf("%s received readable content", domain)
			}
		}
	}
	if n := len(c.hosts.peers["old.example"].Attempts()); n > 0 {
		return errors.New("old.example was sent something")
	}
	return nil
}

// disk searches every file for the patient's name.
func (c *check) disk() error {
	return filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		c.files++
		for _, word := range []string{"Johanna", "Beispiel", "cardiology", "tulip-4711", "dora@clear"} {
			if bytes.Contains(b, []byte(word)) {
				return fmt.Errorf("%s holds plaintext", filepath.Base(path))
			}
		}
		return nil
	})
}

// ledger checks the audit log whole.
func (c *check) ledger() error { return c.sys.Ledger.Check(c.ctx) }
