//! TLS towards upstreams: the system's roots, Mozilla's where the system has none, and the
//! operator's own.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::upstream::Protocol;

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsFault(String);

/// The configuration for one origin. It holds the session cache, so it must be shared by all
/// workers and outlive a reload.
///
/// # Errors
/// Further roots that are no PEM text, or hold no certificate.
pub fn client_config(ca: Option<&[u8]>, protocol: Protocol) -> Result<Arc<ClientConfig>, TlsFault> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(pem) = ca {
        let certs: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|e| TlsFault(e.to_string()))?;
        if certs.is_empty() {
            return Err(TlsFault("holds no certificate; it must be a PEM file".into()));
        }
        for cert in certs {
            roots.add(cert).map_err(|e| TlsFault(e.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsFault(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match protocol {
        Protocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Protocol::H1 => vec![b"http/1.1".to_vec()],
        Protocol::H2 => vec![b"h2".to_vec()],
    };
    Ok(Arc::new(config))
}
