// Package certs makes the webhook's certificates, keeps the CA bundle in the webhook
// configurations, and serves what it has made. A new certificate authority is trusted
// long before it signs anything, so that no request fails when it takes over.
package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
)

// Keys of the Secret.
const (
	// Bundle has the certificates of all authorities that are trusted: the one that
	// signs, the next one, and former ones until they expire.
	Bundle = "ca.crt"
	// Cert and Key are what the server shows.
	Cert = "tls.crt"
	Key  = "tls.key"

	signerKey = "ca.key" // of the bundle's first certificate
	nextCert  = "next-ca.crt"
	nextKey   = "next-ca.key"
)

// Lives of what is made, and how long before their end something is done about it.
const (
	day          = 24 * time.Hour
	lifeOfCA     = 365 * day
	announceCA   = 120 * day // the next one is made, and trusted
	replaceCA    = 60 * day  // the next one signs
	lifeOfCert   = 90 * day
	replaceCert  = 30 * day
	clocksDiffer = time.Hour
	// Check is how often somebody should look.
	Check = time.Hour
)

// maxTrusted bounds the bundle.
const maxTrusted = 8

// Maker makes certificates for one service.
type Maker struct{ r *rotator.CertRotator }

// NewMaker returns a maker of certificates for a server's DNS names: one at least.
func NewMaker(name string, more ...string) Maker {
	return Maker{&rotator.CertRotator{
		CAName: "mesh-injector-ca", CAOrganization: "intercept.mesh", DNSName: name, ExtraDNSNames: more,
		ExtKeyUsages: &[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}}
}

// pair is a certificate and its key, as PEM.
type pair struct{ cert, key []byte }

// Next returns what a Secret is to hold, of what it holds, and says what was made. Of a
// Secret that needs nothing it returns the same.
func (m Maker) Next(data map[string][]byte, now time.Time) (next map[string][]byte, made []string, err error) {
	signer, following := pair{first(data[Bundle]), data[signerKey]}, pair{data[nextCert], data[nextKey]}
	if !m.isCA(signer, now.Add(replaceCA)) {
		if signer, following = following, (pair{}); !m.isCA(signer, now.Add(replaceCA)) {
			if signer, err = m.ca(now); err != nil {
				return nil, nil, err
			}
		}
		made = append(made, "another certificate authority signs")
	}
	switch soon := now.Add(announceCA); {
	case m.isCA(signer, soon):
		following = pair{}
	case !m.isCA(following, soon):
		if following, err = m.ca(now); err != nil {
			return nil, nil, err
		}
		made = append(made, "the next certificate authority")
	}
	served := pair{data[Cert], data[Key]}
	valid, err := rotator.ValidCert(signer.cert, served.cert, served.key, m.r.DNSName, m.r.ExtKeyUsages,
		now.Add(replaceCert))
	if !valid || err != nil {
		if served, err = m.leaf(signer, now); err != nil {
			return nil, nil, err
		}
		made = append(made, "the server's certificate")
	}
	next = maps.Clone(data)
	if next == nil {
		next = map[string][]byte{}
	}
	delete(next, nextCert)
	delete(next, nextKey)
	if following.cert != nil {
		next[nextCert], next[nextKey] = following.cert, following.key
	}
	next[signerKey], next[Cert], next[Key] = signer.key, served.cert, served.key
	next[Bundle] = bundle(now, signer.cert, following.cert, data[Bundle])
	return next, made, nil
}

func (m Maker) isCA(p pair, at time.Time) bool {
	valid, err := rotator.ValidCert(p.cert, p.cert, p.key, m.r.CAName, nil, at)
	return valid && err == nil
}

func (m Maker) ca(now time.Time) (pair, error) {
	made, err := m.r.CreateCACert(now.Add(-clocksDiffer), now.Add(lifeOfCA))
	if err != nil {
		return pair{}, fmt.Errorf("making a certificate authority: %w", err)
	}
	return pair{made.CertPEM, made.KeyPEM}, nil
}

func (m Maker) leaf(signer pair, now time.Time) (pair, error) {
	ca := &rotator.KeyPairArtifacts{CertPEM: signer.cert, KeyPEM: signer.key}
	var err error
	if ca.Cert, err = x509.ParseCertificate(der(signer.cert)); err == nil {
		ca.Key, err = x509.ParsePKCS1PrivateKey(der(signer.key))
	}
	if err != nil {
		return pair{}, fmt.Errorf("the certificate authority: %w", err) // isCA has read it
	}
	cert, key, err := m.r.CreateCertPEM(ca, now.Add(-clocksDiffer), now.Add(lifeOfCert))
	if err != nil {
		return pair{}, fmt.Errorf("making the server's certificate: %w", err)
	}
	return pair{cert, key}, nil
}

func der(text []byte) []byte {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	return block.Bytes
}

// first is the first certificate of a bundle.
func first(text []byte) []byte {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	return pem.EncodeToMemory(block)
}

// bundle joins certificates, each once, without those that have expired.
func bundle(now time.Time, texts ...[]byte) []byte {
	var out []byte
	trusted := 0
	for _, rest := range texts {
		for {
			block, more := pem.Decode(rest)
			if block == nil {
				break
			}
			rest = more
			text := pem.EncodeToMemory(block)
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil || cert.NotAfter.Before(now) || bytes.Contains(out, text) || trusted == maxTrusted {
				continue
			}
			out = append(out, text...)
			trusted++
		}
	}
	return out
}
