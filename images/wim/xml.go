package wim

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"io"
	"unicode/utf16"
)

// arches are the processor architectures of Windows (SYSTEM_INFO), as Debian names them.
var arches = map[string]string{"0": "i386", "5": "armhf", "9": "amd64", "12": "arm64"}

// xmlText is what we want to know of the XML text.
type xmlText struct {
	Images []struct {
		Index   int    `xml:"INDEX,attr"`
		Name    string `xml:"NAME"`
		Windows struct {
			Arch    string `xml:"ARCH"`
			Version struct {
				Major string `xml:"MAJOR"`
				Minor string `xml:"MINOR"`
				Build string `xml:"BUILD"`
				SP    string `xml:"SPBUILD"`
			} `xml:"VERSION"`
		} `xml:"WINDOWS"`
	} `xml:"IMAGE"`
}

// imagesOf is what the XML text says of so many images. Nothing but names rests on it, so
// that a text that cannot be read leaves them empty.
func imagesOf(text []byte, count int) []Image {
	images := make([]Image, count)
	for i := range images {
		images[i].Index = i + 1
	}
	var x xmlText
	d := xml.NewDecoder(bytes.NewReader(utf8Of(text)))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil } // it is UTF-8 by now
	_ = d.Decode(&x)
	for _, i := range x.Images {
		if i.Index < 1 || i.Index > count {
			continue
		}
		w := i.Windows
		img := Image{Index: i.Index, Name: i.Name, Arch: arches[w.Arch]}
		if v := w.Version; v.Major != "" && v.Build != "" {
			img.Version = fmt.Sprintf("%s.%s.%s", v.Major, v.Minor, v.Build)
			if v.SP != "" {
				img.Version += "." + v.SP
			}
		}
		images[i.Index-1] = img
	}
	return images
}

// utf8Of changes UTF-16LE, with or without a byte order mark, to UTF-8.
func utf8Of(b []byte) []byte {
	s := text(b)
	if len(s) > 0 && s[0] == 0xfeff {
		s = s[1:]
	}
	return []byte(string(utf16.Decode(s)))
}

// text is bytes as units of UTF-16.
func text(b []byte) []uint16 {
	s := make([]uint16, len(b)/2)
	for i := range s {
		s[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return s
}
