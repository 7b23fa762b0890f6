// Says what it was given, and ends with 7.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	text, err := os.ReadFile("/data/message")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("arguments", strings.Join(os.Args[1:], " "))
	fmt.Println("GREETING", os.Getenv("GREETING"))
	fmt.Println("file", strings.TrimSpace(string(text)))
	os.Exit(7)
}
