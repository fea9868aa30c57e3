// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// PKI is an authority, and certificates of it for a server on 127.0.0.1 and for clients; all are files of PEM.
type PKI struct {
	CA, ServerCert, ServerKey, ClientCert, ClientKey string

	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewPKI makes an authority with a server's and a client's certificate.
func NewPKI(t TB) *PKI {
	t.Helper()
	dir := t.TempDir()
	p := &PKI{CA: filepath.Join(dir, "ca.pem")}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	p.key = newKey(t)
	p.certificate = p.issue(t, p.CA, template, &p.key.PublicKey)
	p.ServerCert, p.ServerKey = p.pair(t, filepath.Join(dir, "server"), "server")
	p.ClientCert, p.ClientKey = p.pair(t, filepath.Join(dir, "client"), "node-a")
	return p
}

// Renew replaces the client's certificate and key by others.
func (p *PKI) Renew(t TB) {
	t.Helper()
	p.ClientCert, p.ClientKey = p.pair(t, p.ClientCert[:len(p.ClientCert)-len(".pem")], "node-a")
}

// Client is the configuration of a client with the client's certificate.
func (p *PKI) Client(t TB) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(p.ClientCert, p.ClientKey)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(p.certificate)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

func (p *PKI) pair(t TB, path, name string) (certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	certFile, keyFile = path+".pem", path+"-key.pem"
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, keyFile, "PRIVATE KEY", der)
	p.issue(t, certFile, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &key.PublicKey)
	return certFile, keyFile
}

// issue signs a certificate; without an authority yet, by itself.
func (p *PKI) issue(t TB, file string, template *x509.Certificate, public *ecdsa.PublicKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := p.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, p.key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, "CERTIFICATE", der)
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func newKey(t TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func write(t TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
