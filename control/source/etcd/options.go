// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"
)

// PasswordVariable is the environment variable that the password is read from when no file is named.
const PasswordVariable = "VIADUCT_ETCD_PASSWORD"

const (
	defaultPrefix = "/viaduct"
	defaultPort   = "2379"
	defaultTTL    = 30 * time.Second
)

// Options say which etcd, and who we are to it.
type Options struct {
	Endpoints []string // "https://host:2379", as Parse returns them; at least one
	Prefix    string   // of all keys; "/viaduct" when empty

	// Files of PEM; read at every handshake, so that rotated ones are taken. Only with https. Without CA the system's
	// roots are trusted; Cert and Key come together or not at all.
	CA, Cert, Key string

	User         string // empty: no user and password
	Password     string // used when there is no PasswordFile; when empty, the environment's VIADUCT_ETCD_PASSWORD
	PasswordFile string // read at every connection; one line end at its end is no part of the password

	Node   string        // that statuses are published for; empty: none before the first Report names it
	TTL    time.Duration // how long what a node publishes outlives it, 1 s at least; 30 s when zero
	Logger *zap.Logger   // nil: none
}

// Flags defines the flags of everything that is not in the source's specification.
func (o *Options) Flags(s *pflag.FlagSet) {
	s.StringVar(&o.Prefix, "etcd-prefix", cmp.Or(o.Prefix, defaultPrefix), "etcd: prefix of all keys")
	s.StringVar(&o.CA, "etcd-ca", o.CA, "etcd: file of the authorities that its certificate is checked against")
	s.StringVar(&o.Cert, "etcd-cert", o.Cert, "etcd: file of our certificate")
	s.StringVar(&o.Key, "etcd-key", o.Key, "etcd: file of our certificate's key")
	s.StringVar(&o.User, "etcd-user", o.User, "etcd: user name")
	s.StringVar(&o.PasswordFile, "etcd-password-file", o.PasswordFile,
		"etcd: file of the user's password (else the environment's "+PasswordVariable+")")
}

// Parse reads a source's specification, "etcd:https://a:2379,https://b:2379"; "etcd:" may be left out, and so may the
// port when it is 2379. All endpoints have the same scheme, http or https: etcd's client takes the first one's for all.
func Parse(spec string) ([]string, error) {
	if strings.Contains(spec, "@") { // wherever it stands: there may be a password before it
		return nil, errors.New("etcd endpoints: the user belongs into --etcd-user, the password into a file")
	}
	var endpoints []string
	scheme := ""
	for text := range strings.SplitSeq(strings.TrimPrefix(spec, "etcd:"), ",") {
		u, err := parseEndpoint(text)
		if err != nil {
			return nil, err
		}
		if scheme != "" && u.Scheme != scheme {
			return nil, errors.New("etcd endpoints: all are http or all are https")
		}
		scheme = u.Scheme
		endpoints = append(endpoints, u.String())
	}
	return endpoints, nil
}

func parseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("etcd endpoint %q is not like https://host:2379", text)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("etcd endpoint %s: nothing may stand behind the port; the prefix is --etcd-prefix", u.Host)
	}
	return &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), defaultPort))}, nil
}

// complete fills in defaults, and says what contradicts itself.
func (o *Options) complete() error {
	var err error
	if o.Endpoints, err = Parse(strings.Join(o.Endpoints, ",")); err != nil {
		return err
	}
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	o.Prefix = strings.TrimRight(o.Prefix, "/")
	o.TTL = cmp.Or(o.TTL, defaultTTL)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	switch {
	case (o.Cert == "") != (o.Key == ""):
		return errors.New("--etcd-cert and --etcd-key come together")
	case !o.secure() && o.CA+o.Cert != "":
		return errors.New("--etcd-ca and --etcd-cert are for https endpoints")
	case o.User == "" && o.PasswordFile != "":
		return errors.New("--etcd-password-file needs --etcd-user")
	case o.TTL < time.Second:
		return fmt.Errorf("a lease of %s: etcd counts in seconds", o.TTL)
	case o.Node != "" && !validNode(o.Node):
		return fmt.Errorf("%q is not a node's name", o.Node)
	}
	return nil
}

func (o *Options) secure() bool { return strings.HasPrefix(o.Endpoints[0], "https:") }

// password finds the password of the moment.
func (o *Options) password() (string, error) {
	password := cmp.Or(o.Password, os.Getenv(PasswordVariable))
	if o.PasswordFile != "" {
		text, err := os.ReadFile(o.PasswordFile)
		if err != nil {
			return "", fmt.Errorf("read password: %w", err)
		}
		password = strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	}
	if password == "" {
		return "", fmt.Errorf("user %s has no password: say --etcd-password-file or %s", o.User, PasswordVariable)
	}
	return password, nil
}
