package kms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/postseal/postseal/securemail/keyring"
)

// Credential is what AWS requests are signed with. SessionToken is that of a temporary one.
type Credential struct{ AccessKeyID, SecretAccessKey, SessionToken string }

// Credentials returns the credential to use now. It is called for each request, from many goroutines, and should cache.
// Its error is final for the call; wrap keyring.ErrUnavailable where a later one may work.
type Credentials func(ctx context.Context) (Credential, error)

// AWSOptions configure an AWS.
type AWSOptions struct {
	// Context is the encryption context, which is bound to what is sealed and stands in CloudTrail in clear; nil: "purpose"
	// is "postseal key ring". It must stay the same as long as the ring.
	Context map[string]string
	Options
}

// AWS is a symmetric key of AWS KMS (docs.aws.amazon.com/kms/latest/APIReference). The service keeps all versions of a key
// that it rotates; a key of another region, or a replaced one, is another key: use keyring's MoveRoot.
type AWS struct {
	c           *client
	region, key string
	credentials Credentials
	context     map[string]string
}

var _ keyring.Root = (*AWS)(nil)

var regionName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// NewAWS returns the key of that id, ARN or alias ("alias/NAME") in region. The credential needs kms:Encrypt and
// kms:Decrypt on it. A nil o is the zero AWSOptions.
func NewAWS(region, key string, credentials Credentials, o *AWSOptions) (*AWS, error) {
	if o == nil {
		o = &AWSOptions{}
	}
	a := &AWS{region: region, key: key, credentials: credentials, context: o.Context}
	if a.context == nil {
		a.context = map[string]string{"purpose": "postseal key ring"}
	}
	var errs []error
	if !regionName.MatchString(region) {
		errs = append(errs, errors.New("kms: aws: a region is required"))
	}
	if key == "" {
		errs = append(errs, errors.New("kms: aws: the id of a key is required"))
	}
	if credentials == nil {
		errs = append(errs, errors.New("kms: aws: a credentials function is required"))
	}
	domain := "amazonaws.com"
	if strings.HasPrefix(region, "cn-") {
		domain = "amazonaws.com.cn"
	}
	c, err := newClient("aws", "https://kms."+region+"."+domain, &o.Options)
	if err == nil && c.base.Path != "" {
		err = errors.New("kms: aws: Options.Endpoint must have no path")
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	c.judge = judgeAWS
	a.c = c
	return a, nil
}

type awsRequest struct {
	KeyID          string            `json:"KeyId"`
	Plaintext      []byte            `json:",omitempty"`
	CiphertextBlob []byte            `json:",omitempty"`
	Context        map[string]string `json:"EncryptionContext,omitempty"`
}

type awsAnswer struct {
	Plaintext, CiphertextBlob []byte
}

// Wrap implements [keyring.Root].
func (a *AWS) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	var sealed []byte
	err := a.ask(ctx, "encrypt", awsRequest{Plaintext: key}, func(r *awsAnswer) bool {
		sealed = r.CiphertextBlob
		return len(sealed) > 0
	})
	if err != nil {
		return nil, err
	}
	return sealed, nil
}

// Unwrap implements [keyring.Root]. The key is named in the request, so that what another key sealed is refused.
func (a *AWS) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	var key []byte
	err := a.ask(ctx, "decrypt", awsRequest{CiphertextBlob: wrapped}, func(r *awsAnswer) bool {
		key = r.Plaintext
		return len(key) > 0
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

func (a *AWS) ask(ctx context.Context, op string, q awsRequest, take func(*awsAnswer) bool) error {
	q.KeyID, q.Context = a.key, a.context
	return a.c.do(ctx, call{
		op: op, path: "/", body: q,
		prepare: func(ctx context.Context, r *http.Request, body []byte) error {
			cred, err := a.credentials(ctx)
			if err != nil {
				return fmt.Errorf("credentials: %w", err)
			}
			if cred.AccessKeyID == "" || cred.SecretAccessKey == "" || !visible(cred.AccessKeyID+cred.SessionToken) {
				return fmt.Errorf("credentials are empty or have characters that none has: %w", keyring.ErrDenied)
			}
			r.Header.Set("Content-Type", "application/x-amz-json-1.1")
			r.Header.Set("X-Amz-Target", "TrentService."+map[string]string{"encrypt": "Encrypt", "decrypt": "Decrypt"}[op])
			signer{cred, a.region, "kms", a.c.o.Now()}.sign(r, body)
			return nil
		},
		accept: func(b []byte) error {
			var r awsAnswer
			if json.Unmarshal(b, &r) != nil || !take(&r) {
				return errAnswer
			}
			return nil
		},
	})
}

// judgeAWS reads the error's type: of the header X-Amzn-ErrorType, "TYPE:URL", or of the body, "NAMESPACE#TYPE". The types
// are those of Encrypt, Decrypt and the common errors of the API reference.
func judgeAWS(_ string, status int, header http.Header, body []byte) (string, error) {
	var e struct {
		Type string `json:"__type"`
		Code string `json:"code"`
	}
	_ = json.Unmarshal(body, &e) // not JSON: judged by its status
	code, _, _ := strings.Cut(cmp.Or(header.Get("X-Amzn-Errortype"), e.Type, e.Code), ":")
	if i := strings.LastIndexByte(code, '#'); i >= 0 {
		code = code[i+1:]
	}
	switch code {
	case "DisabledException", "KMSInvalidStateException", "NotFoundException":
		return code, keyring.ErrLost
	case "InvalidCiphertextException", "IncorrectKeyException":
		return code, keyring.ErrCorrupt
	case "AccessDeniedException", "AccessDenied", "UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException",
		"SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken", "MissingAuthenticationTokenException",
		"ExpiredTokenException", "NotAuthorized", "OptInRequired", "RequestExpired", "InvalidGrantTokenException":
		return code, keyring.ErrDenied
	case "ThrottlingException", "Throttling", "ThrottledException", "RequestLimitExceeded", "LimitExceededException", "KeyUnavailableException",
		"DependencyTimeoutException", "KMSInternalException", "InternalFailure", "ServiceUnavailable", "RequestTimeout":
		return code, keyring.ErrUnavailable
	}
	return code, byStatus(status)
}
