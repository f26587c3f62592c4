// Command farend runs a command against a mail host and a name server that live in this process, on loopback:
//
//	go run ./internal/interop/farend COMMAND [ARGUMENT...]
//
// The command gets further arguments, as examples/postseal knows them: -resolver, -ca and -port. Mail for the domain
// tls.test goes to a host that proves its name, mail for clear.test to one that offers no TLS. Behind the command farend
// prints how many messages were taken, and ends with the command's exit code.
package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "farend:", err)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	if len(args) == 0 {
		return 2, errors.New("usage: farend COMMAND [ARGUMENT...]")
	}
	dir, err := os.MkdirTemp("", "postseal-farend-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cert := smtppeer.SelfSigned("mx.tls.test", "127.0.0.1")
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600); err != nil {
		return 1, err
	}
	proved, err := smtppeer.Start(smtppeer.Options{Hostname: "mx.tls.test", TLS: smtppeer.ServerConfig(cert)})
	if err != nil {
		return 1, err
	}
	defer proved.Close()
	port := strconv.Itoa(proved.Port())
	plain, err := smtppeer.Start(smtppeer.Options{Hostname: "mx.clear.test", Listen: "127.0.0.2:" + port})
	if err != nil {
		return 1, err
	}
	defer plain.Close()
	dns, err := dnspeer.Start(dnspeer.Zone{
		"tls.test": {"MX 10 mx.tls.test."}, "mx.tls.test": {"A 127.0.0.1"},
		"clear.test": {"MX 10 mx.clear.test."}, "mx.clear.test": {"A 127.0.0.2"},
	})
	if err != nil {
		return 1, err
	}
	defer dns.Close()
	code, err = call(append(args, "-resolver", dns.Addr(), "-ca", ca, "-port", port))
	fmt.Printf("farend: tls.test took %d, clear.test took %d\n", len(proved.Messages()), len(plain.Messages()))
	return code, err
}

// call runs the command; an exit code of its own is no error.
func call(args []string) (int, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() >= 0 {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
