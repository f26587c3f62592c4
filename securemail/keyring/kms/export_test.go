package kms

import (
	"net/http"
	"time"
)

// SignV4 signs as an AWS does, for any service.
func SignV4(r *http.Request, body []byte, c Credential, region, service string, now time.Time) {
	signer{c, region, service, now}.sign(r, body)
}
