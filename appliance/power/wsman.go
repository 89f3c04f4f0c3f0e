package power

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"strings"
	"unicode"
)

// method is a call to WMI through WS-Management (DSP0226, [MS-WSMV] 3.1.4.1.31).
type method struct {
	class, name string
	parameters  string // XML, in our own words only
}

// shutDown is Win32_OperatingSystem's method. Flags: power off (8), forced (4): nobody sits
// there to answer programs that ask whether to save. Services end in order all the same.
func shutDown() method {
	return method{"Win32_OperatingSystem", "Win32Shutdown", "<p:Flags>12</p:Flags><p:Reserved>0</p:Reserved>"}
}

// shutdownExe starts a program on Windows.
func shutdownExe() method {
	return method{"Win32_Process", "Create", "<p:CommandLine>shutdown.exe /s /f /t 0</p:CommandLine>"}
}

func (m method) uri() string {
	return "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/" + m.class
}

func (m method) message(to string) []byte {
	var escaped bytes.Buffer
	_ = xml.EscapeText(&escaped, []byte(to))
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="utf-8"?>`+
		`<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd">`+
		`<s:Header><a:To>%s</a:To><w:ResourceURI s:mustUnderstand="true">%s</w:ResourceURI>`+
		`<a:ReplyTo><a:Address s:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>`+
		`<a:Action s:mustUnderstand="true">%s/%s</a:Action><w:MaxEnvelopeSize s:mustUnderstand="true">51200</w:MaxEnvelopeSize>`+
		`<a:MessageID>uuid:%s</a:MessageID><w:OperationTimeout>PT20S</w:OperationTimeout></s:Header>`+
		`<s:Body><p:%s_INPUT xmlns:p="%s">%s</p:%s_INPUT></s:Body></s:Envelope>`,
		escaped.String(), m.uri(), m.uri(), m.name, uuid(), m.name, m.uri(), m.parameters, m.name)
}

func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// reply is what of an answer counts: the method's result, or a fault.
type reply struct {
	Body struct {
		Output struct {
			XMLName     xml.Name
			ReturnValue *string `xml:"ReturnValue"`
		} `xml:",any"`
		Fault *struct {
			Subcode string `xml:"Code>Subcode>Value"`
			Reason  string `xml:"Reason>Text"`
		} `xml:"Fault"`
	} `xml:"Body"`
}

// result reads an answer. What it says of itself comes cut short.
func (m method) result(body []byte) error {
	var r reply
	err := xml.Unmarshal(body, &r)
	switch fault := r.Body.Fault; {
	case err != nil:
		return fmt.Errorf("%w: its answer to %s is no SOAP", ErrSystemUnable, m.name)
	case fault != nil && strings.HasSuffix(fault.Subcode, "AccessDenied"):
		return fmt.Errorf("%w: it may not call %s: %q", ErrSystemRefused, m.name, plain(fault.Reason))
	case fault != nil:
		return fmt.Errorf("%w: %s: %q", ErrSystemUnable, m.name, plain(fault.Reason))
	case r.Body.Output.ReturnValue == nil || r.Body.Output.XMLName.Local != m.name+"_OUTPUT":
		return fmt.Errorf("%w: its answer to %s has no result", ErrSystemUnable, m.name)
	}
	switch code := strings.TrimSpace(*r.Body.Output.ReturnValue); code {
	case "0", "1115": // ERROR_SHUTDOWN_IN_PROGRESS
		return nil
	default:
		return fmt.Errorf("%w: %s ended with %q", ErrSystemUnable, m.name, plain(code))
	}
}

// plain is the beginning of a foreign text, in one line.
func plain(text string) string {
	line := strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }), " ")
	if r := []rune(line); len(r) > maxSaid {
		return string(r[:maxSaid]) + "…"
	}
	return line
}

// unreachable tells a peer that is not there from one that fails later.
func unreachable(ctx context.Context, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: %w: %w", ErrSystemSilent, errNoConnection, err)
	}
	return silent(ctx, ErrSystemSilent, err)
}
