package dkim

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxHead bounds a header, in octets.
const maxHead = 256 << 10

var (
	errHead     = errors.New("dkim: the header does not end, or has a line without CRLF")
	errHeadSize = errors.New("dkim: a header over 256 KiB")
	errFrom     = errors.New("dkim: not exactly one From field (RFC 5322 section 3.6)")
)

// readHead reads the header with the empty line that ends it.
func readHead(br *bufio.Reader) ([]byte, error) {
	var head []byte
	start := 0 // of the line
	for {
		part, err := br.ReadSlice('\n')
		head = append(head, part...)
		switch {
		case len(head) > maxHead:
			return nil, errHeadSize
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF:
			return nil, errHead
		case err != nil:
			return nil, fmt.Errorf("dkim: read message: %w", err)
		case !bytes.HasSuffix(head, []byte("\r\n")):
			return nil, errHead
		case len(head)-start == 2:
			return head, nil
		}
		start = len(head)
	}
}

// always are the fields that are signed once more often than they are there, even if they are not: a reader sees them,
// and must not see one that somebody added.
var always = []string{"From", "Reply-To", "Subject", "To", "Cc"}

// present are the fields that are signed, once more often than they are there, if they are there (RFC 6376 section 5.4.1;
// RFC 8058 section 4; RFC 8460 section 5.3). What relays add or change on the way is not among them.
var present = []string{
	"Date", "Message-ID", "Sender", "In-Reply-To", "References", "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
	"List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "Content-Disposition", "Content-ID", "Content-Description", "Content-Language",
	"Resent-Date", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc", "Resent-Message-ID",
	"List-Help", "List-Subscribe", "List-Post", "List-Owner", "List-Archive",
	"TLS-Report-Domain", "TLS-Report-Submitter", "TLS-Required", "Auto-Submitted", "Feedback-ID", "Autocrypt",
	"Disposition-Notification-To", "HP-Outer",
}

// maxNames bounds the tag h=, in octets, which stands on one line of at most 998 (RFC 5322 section 2.1.1).
const maxNames = 800

// signed are the names for h=, the most important first. Where they would not fit, the last are left out.
func signed(head []byte) ([]string, error) {
	count := map[string]int{}
	for line := range strings.SplitSeq(string(head), "\r\n") {
		if line == "" || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		name, _, _ := strings.Cut(line, ":")
		count[strings.ToLower(strings.TrimRight(name, " \t"))]++
	}
	if count["from"] != 1 {
		return nil, errFrom
	}
	var names []string
	size := 0
	add := func(name string, n int) {
		if size+(len(name)+1)*n > maxNames {
			return
		}
		size += (len(name) + 1) * n
		for range n {
			names = append(names, name)
		}
	}
	for _, name := range always {
		add(name, count[strings.ToLower(name)]+1)
	}
	for _, name := range present {
		if n := count[strings.ToLower(name)]; n > 0 {
			add(name, n+1)
		}
	}
	return names, nil
}
