// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// The file has three buckets. entries: a record by its key, the fields separated by zero bytes. given: addresses, as
// text, by their place in the order of giving back, 8 bytes, big endian. about: "format", the number below. The values
// of the first two are sealed, since bbolt does not see damage within a page.
var (
	entriesBucket = []byte("entries")
	givenBucket   = []byte("given")
	aboutBucket   = []byte("about")

	formatKey = []byte("format")
)

const format = "1"

// change is one of a bucket: a value is put, or, without one, the key deleted.
type change struct{ bucket, key, value []byte }

func storeEntry(key Key, record []byte) change { return change{entriesBucket, entryKey(key), record} }
func forgetEntry(key Key) change               { return change{entriesBucket, entryKey(key), nil} }
func forgetGiven(place uint64) change          { return change{givenBucket, placeKey(place), nil} }

func storeGiven(g given) change {
	return change{givenBucket, placeKey(g.place), []byte(g.address.String())}
}

func entryKey(k Key) []byte {
	return []byte(strings.Join([]string{k.Network, k.Container, k.Interface}, "\x00"))
}

func placeKey(place uint64) []byte { return binary.BigEndian.AppendUint64(nil, place) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal appends the CRC-32C of key and value to the value, 4 bytes, big endian.
func seal(key, value []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	return binary.BigEndian.AppendUint32(slices.Clip(value), sum)
}

// unseal returns the value that was sealed.
func unseal(key, sealed []byte) ([]byte, error) {
	value := sealed[:max(0, len(sealed)-4)]
	if !bytes.Equal(seal(key, value), sealed) {
		return nil, fmt.Errorf("%q: its checksum is wrong", key)
	}
	return value, nil
}

// disk is the file.
type disk struct{ *bolt.DB }

// write makes all changes, or none. They are on disk when it returns: bbolt syncs the pages, then the page that makes
// them the file's.
func (d disk) write(changes []change) error {
	tx, err := d.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit there is nothing to roll back, and that is its error
	for _, c := range changes {
		bucket := tx.Bucket(c.bucket)
		if c.value == nil {
			err = bucket.Delete(c.key)
		} else {
			err = bucket.Put(c.key, seal(c.key, c.value))
		}
		if err != nil {
			return err
		}
	}
	return tx.Commit()
}

// load reads a book from the file.
func (d disk) load() (*book, error) {
	b := newBook()
	err := d.View(func(tx *bolt.Tx) error {
		about, entries, givens := tx.Bucket(aboutBucket), tx.Bucket(entriesBucket), tx.Bucket(givenBucket)
		if about == nil || entries == nil || givens == nil {
			return errors.New("it has no leases")
		}
		if found := string(about.Get(formatKey)); found != format {
			return fmt.Errorf("its format is %q, not %q", found, format)
		}
		if err := entries.ForEach(b.loadEntry); err != nil {
			return err
		}
		return givens.ForEach(b.loadGiven)
	})
	return b, err
}

func (b *book) loadEntry(key, sealed []byte) error {
	value, err := unseal(key, sealed)
	if err != nil {
		return err
	}
	e, err := decode(value)
	if err != nil {
		return fmt.Errorf("entry %q: %w", key, err)
	}
	if string(entryKey(e.Key)) != string(key) {
		return fmt.Errorf("entry %q: its record is %s", key, e.Key)
	}
	if other := b.ports[e.Port]; other != nil {
		return fmt.Errorf("port %s is of %s and of %s", e.Port, other.Key, e.Key)
	}
	b.entries[e.Key], b.ports[e.Port] = e, e
	for _, address := range e.Addresses {
		if other := b.held[address]; other != nil {
			return fmt.Errorf("address %s is of %s and of %s", address, other.Key, e.Key)
		}
		b.held[address] = e
	}
	return nil
}

func (b *book) loadGiven(key, sealed []byte) error {
	value, err := unseal(key, sealed)
	if err != nil {
		return err
	}
	address, err := netip.ParseAddr(string(value))
	if err != nil {
		return fmt.Errorf("given %x: %w", key, err)
	}
	if len(key) != 8 || b.used(address) {
		return fmt.Errorf("given %x: address %s", key, address)
	}
	b.place = binary.BigEndian.Uint64(key)
	b.places[address] = b.place
	return nil
}
