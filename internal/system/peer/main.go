// SPDX-License-Identifier: Apache-2.0

// Command peer is what runs in the containers of tests. It answers TCP connections and datagrams with what they bring,
// or asks somebody who does.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	switch {
	case len(args) == 1 && args[0] == "pause":
		<-stop
		return nil
	case len(args) == 2 && args[0] == "serve":
		if err := serve(args[1]); err != nil {
			return err
		}
		<-stop
		return nil
	case len(args) == 3 && args[0] == "ask":
		return ask(args[1], args[2])
	}
	return errors.New("usage: peer pause | serve :PORT | ask NETWORK ADDRESS")
}

// serve echoes on the port by both protocols.
func serve(port string) error {
	listener, err := net.Listen("tcp", port)
	if err != nil {
		return err
	}
	datagrams, err := net.ListenPacket("udp", port)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := datagrams.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = datagrams.WriteTo(buffer[:n], from)
		}
	}()
	return nil
}

// ask sends some bytes, and prints the address that it sent them from once they are back.
func ask(network, address string) error {
	const patience = 10 * time.Second
	c, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	const text = "to a peer and back"
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(c, back); err != nil {
		return err
	}
	if string(back) != text {
		return fmt.Errorf("%q came back", back)
	}
	fmt.Println(c.LocalAddr())
	return nil
}
