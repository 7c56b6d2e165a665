//! Certificates made on the spot, and TLS callers.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use super::client::Raw;
use super::{H2, WAIT, block_on};

/// A certificate authority of one test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Issued {
    pub cert_pem: String,
    pub key_pem: String,
    pub der: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate") }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names.
    pub fn issue(&self, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let params = CertificateParams::new(names).expect("valid names");
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { cert_pem: cert.pem(), key_pem: key.serialize_pem(), der: cert.der().clone() }
    }

    /// A caller's settings: trusts this authority, offers these protocols.
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl Issued {
    /// Writes both to files `NAME.pem` and `NAME.key`.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&cert, &self.cert_pem).expect("written");
        std::fs::write(&key, &self.key_pem).expect("written");
        (cert, key)
    }

    /// A server's settings with this certificate.
    pub fn server(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .expect("a certificate");
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What the handshake settled.
#[derive(Debug)]
pub struct Settled {
    pub alpn: Option<String>,
    pub certificate: CertificateDer<'static>,
    pub resumed: bool,
}

/// Connects by TLS and finishes the handshake.
///
/// # Errors
/// A handshake that fails.
pub fn try_connect(
    addr: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> Result<(Raw, Settled), std::io::Error> {
    let mut tcp = TcpStream::connect_timeout(&addr, WAIT)?;
    tcp.set_read_timeout(Some(WAIT))?;
    let name = ServerName::try_from(name.to_owned()).expect("a valid name");
    let mut tls = ClientConnection::new(config.clone(), name).map_err(std::io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    let certificates = tls.peer_certificates().unwrap_or_default();
    let settled = Settled {
        alpn: tls.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
        certificate: certificates.first().expect("a certificate").clone().into_owned(),
        resumed: tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
    };
    let second = tcp.try_clone()?;
    Ok((Raw::over(second, Box::new(StreamOwned::new(tls, tcp))), settled))
}

/// Connects by TLS; HTTP/1.1 is spoken over it.
#[track_caller]
pub fn connect(addr: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> (Raw, Settled) {
    try_connect(addr, config, name).expect("a TLS connection")
}

/// Connects by TLS; HTTP/2 is spoken over it.
#[track_caller]
pub fn connect_h2(addr: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> H2 {
    let name = ServerName::try_from(name.to_owned()).expect("a valid name");
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    let stream = block_on("a TLS connection", async {
        let tcp = tokio::net::TcpStream::connect(addr).await?;
        connector.connect(name, tcp).await
    });
    let stream = stream.expect("a TLS connection");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "HTTP/2 was agreed on");
    H2::over(stream)
}
