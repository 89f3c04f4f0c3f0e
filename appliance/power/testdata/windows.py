# Windows' remoting, as far as a shutdown needs it, with MIT's Kerberos, or the NTLM of its
# plugin gss-ntlmssp, which also opens and makes the sealed messages. What was called goes
# into the file "called" of the directory.
# usage: windows.py DIRECTORY plain|tls ADDRESS PORT METHOD=RESULT ...
#   RESULT is the method's ReturnValue, or a fault's subcode
# The directory holds "users" (gss-ntlmssp's NTLM_USER_FILE) or "keytab" and "krb5.conf",
# and for tls "cert.pem"; the port is printed.
import base64
import hashlib
import http.server
import os
import re
import ssl
import struct
import sys

import gssapi
from gssapi.raw import ChannelBindings

DIRECTORY, SCHEME, ADDRESS, PORT = sys.argv[1:5]
RESULTS = dict(a.split("=") for a in sys.argv[5:])
os.environ["NTLM_USER_FILE"] = os.path.join(DIRECTORY, "users")
KERBEROS = os.path.exists(os.path.join(DIRECTORY, "keytab"))
if KERBEROS:
    os.environ["KRB5_KTNAME"] = os.path.join(DIRECTORY, "keytab")
    os.environ["KRB5_CONFIG"] = os.path.join(DIRECTORY, "krb5.conf")
    os.environ["KRB5RCACHEDIR"] = DIRECTORY
gssapi.SecurityContext.__DEFER_STEP_ERRORS__ = False  # a refusal comes at once, with its token
NTLM = gssapi.OID.from_int_seq("1.3.6.1.4.1.311.2.2.10")
SEALED = 'multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"'
SOAP = "application/soap+xml;charset=UTF-8"
bindings = None


def note(text):
    with open(os.path.join(DIRECTORY, "called"), "a", encoding="utf-8") as f:
        f.write(text + "\n")


def unseal(context, body):
    """[MS-WSMV] 2.2.9.1"""
    m = re.match(rb"--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
                 rb"\tOriginalContent: type=application/soap\+xml;charset=UTF-8;Length=(\d+)\r\n"
                 rb"--Encrypted Boundary\r\n\tContent-Type: application/octet-stream\r\n", body)
    tail = b"--Encrypted Boundary--\r\n"
    assert m and body.endswith(tail), body
    token = body[m.end():-len(tail)]
    assert struct.unpack("<I", token[:4]) == (16,), token[:4]
    got = context.unwrap(token[4:])
    assert got.encrypted and len(got.message) == int(m.group(1)), got
    return got.message


def seal(context, message):
    token = context.wrap(message, True).message
    return (b"--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
            b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n" % len(message)
            + b"--Encrypted Boundary\r\n\tContent-Type: application/octet-stream\r\n"
            + struct.pack("<I", 16) + token + b"--Encrypted Boundary--\r\n")


def call(message):
    """Runs a method: its status and answer."""
    text = message.decode("utf-8")
    uri = re.search(r'ResourceURI s:mustUnderstand="true">(http://schemas\.microsoft\.com/wbem/wsman/1/wmi/root/cimv2/(\w+))<', text)
    action = re.search(r'Action s:mustUnderstand="true">([^<]*)/(\w+)<', text)
    body = re.search(r"<s:Body><p:(\w+)_INPUT xmlns:p=\"([^\"]*)\">(.*)</p:\1_INPUT></s:Body>", text)
    assert uri.group(1) == action.group(1) == body.group(2) and action.group(2) == body.group(1), text
    note("%s.%s %s" % (uri.group(2), body.group(1), body.group(3)))
    result = RESULTS[body.group(1)]
    head = '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><s:Header/><s:Body>'
    if result.isdigit():
        out = '<p:%s_OUTPUT xmlns:p="%s"><p:ReturnValue>%s</p:ReturnValue></p:%s_OUTPUT>' % (body.group(1), uri.group(1), result, body.group(1))
        return 200, (head + out + "</s:Body></s:Envelope>").encode()
    out = ('<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>w:%s</s:Value></s:Subcode></s:Code>'
           '<s:Reason><s:Text xml:lang="de-DE">Zugriff verweigert \x85</s:Text></s:Reason></s:Fault>' % result)
    return 500, (head + out + "</s:Body></s:Envelope>").encode("utf-8")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    context = None  # of this connection
    proof = None  # Kerberos' of ours

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        way, _, token = self.headers.get("Authorization", "").partition(" ")
        if self.path != "/wsman" or (way != "Negotiate" and not (self.context and self.context.complete)):
            return self.answer(401, [("WWW-Authenticate", "Negotiate"), ("WWW-Authenticate", "Kerberos")])
        if way and not self.login(base64.b64decode(token)):
            return None
        if not body:
            return self.answer(200)
        if SCHEME == "tls":
            assert self.headers["Content-Type"] == SOAP
            status, text = call(body)
            return self.answer(status, [("Content-Type", SOAP)], text)
        assert self.headers["Content-Type"] == SEALED and b"schemas" not in body
        status, text = call(unseal(self.context, body))
        return self.answer(status, [("Content-Type", SEALED)], seal(self.context, text))

    def login(self, token):
        """True once who is there is known."""
        if not self.context or self.context.complete:
            self.context = gssapi.SecurityContext(
                creds=gssapi.Credentials(usage="accept", mechs=None if KERBEROS else [NTLM]), usage="accept", channel_bindings=bindings)
        try:
            reply = self.context.step(token)
        except gssapi.exceptions.GSSError as e:
            note("refused %s" % str(e).replace("\n", " ")[:60])
            self.context = None
            reason = " " + base64.b64encode(e.token).decode() if getattr(e, "token", None) else ""
            self.answer(401, [("WWW-Authenticate", "Negotiate" + reason)])
            return False
        if not self.context.complete:
            self.answer(401, [("WWW-Authenticate", "Negotiate " + base64.b64encode(reply).decode())])
            return False
        note("login %s" % str(self.context.initiator_name).rstrip("\0"))
        if KERBEROS:
            assert self.context.mech.dotted_form == "1.2.840.113554.1.2.2", self.context.mech
            if bindings and not self.context.actual_flags & gssapi.RequirementFlag.channel_bound:
                note("not bound to the channel")
            self.proof = "Negotiate " + base64.b64encode(reply).decode()
        return True

    def answer(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.proof:
            self.send_header("WWW-Authenticate", self.proof)
            self.proof = None
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer((ADDRESS, int(PORT)), Handler)
if SCHEME == "tls":
    pem = os.path.join(DIRECTORY, "cert.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    with open(pem, encoding="ascii") as f:
        cert = re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", f.read(), re.S).group()
    bindings = ChannelBindings(application_data=b"tls-server-end-point:" + hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert)).digest())
    server.socket = tls.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
