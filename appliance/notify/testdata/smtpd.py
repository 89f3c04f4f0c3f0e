# A mail server for smtp_test.go: python3 smtpd.py CERT KEY [--tls] [--login-only]
# It prints its port, and then a line of JSON for each mail that it takes.
import asyncio, json, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
tls, login_only = "--tls" in sys.argv, "--login-only" in sys.argv


def authenticate(server, session, envelope, mechanism, data):
    ok = data.login == b"rescue" and data.password == "s3cret pässword".encode()
    return AuthResult(success=ok, handled=False, auth_data=data.login.decode())


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 no such user"
        if address.startswith("later"):
            return "451 greylisted, come again"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        print(json.dumps({"from": envelope.mail_from, "to": envelope.rcpt_tos, "tls": tls or session.ssl is not None,
                          "user": session.auth_data or "", "raw": envelope.content.decode()}), flush=True)
        return "250 taken"


def protocol():
    return SMTP(Handler(), authenticator=authenticate, auth_required=True, require_starttls=not tls, auth_require_tls=not tls,
                tls_context=None if tls else context, auth_exclude_mechanism=["PLAIN"] if login_only else None)


async def main():
    server = await asyncio.get_running_loop().create_server(protocol, "localhost", 0, ssl=context if tls else None, family=2)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
