//! TLS towards callers: certificates by name, read again when their files change.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A certificate chain and its key, as PEM text and the names to use in faults.
#[derive(Clone, Debug)]
pub struct CertificatePair {
    pub cert_name: String,
    pub cert: Arc<[u8]>,
    pub key_name: String,
    pub key: Arc<[u8]>,
}

/// Why certificates could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {what}")]
pub struct CertificateFault {
    pub file: String,
    pub what: String,
}

fn fault(file: &str, what: impl std::fmt::Display) -> CertificateFault {
    CertificateFault { file: file.to_owned(), what: what.to_string() }
}

#[derive(Debug, Default)]
struct Certificates {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// For callers who name no host, or one that no certificate covers.
    first: Option<Arc<CertifiedKey>>,
}

#[derive(Debug)]
struct Resolver(ArcSwap<Certificates>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.0.load();
        let by_name = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            certificates.by_name.get(&name).or_else(|| {
                let parent = name.split_once('.')?.1;
                certificates.by_name.get(&format!("*.{parent}"))
            })
        });
        by_name.or(certificates.first.as_ref()).cloned()
    }
}

/// The TLS side of a listener. Session tickets survive a change of certificates.
pub struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
}

impl ServerTls {
    /// Reads the certificates.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it should; names the file.
    pub fn new(pairs: &[CertificatePair]) -> Result<Arc<ServerTls>, CertificateFault> {
        let resolver = Arc::new(Resolver(ArcSwap::from_pointee(load(pairs)?)));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| fault("TLS", e))?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer =
            rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|e| fault("TLS", e))?;
        // No early data: what it carries can be replayed, and a billed request must not be.
        config.max_early_data_size = 0;
        Ok(Arc::new(ServerTls { config: Arc::new(config), resolver }))
    }

    /// Reads the certificates again; on a fault the old ones stay.
    ///
    /// # Errors
    /// As [`ServerTls::new`].
    pub fn reload(&self, pairs: &[CertificatePair]) -> Result<(), CertificateFault> {
        self.resolver.0.store(Arc::new(load(pairs)?));
        Ok(())
    }
}

fn load(pairs: &[CertificatePair]) -> Result<Certificates, CertificateFault> {
    let mut out = Certificates::default();
    for pair in pairs {
        let certified = Arc::new(load_pair(pair)?);
        for name in names(&certified.cert[0]).map_err(|e| fault(&pair.cert_name, e))? {
            out.by_name.entry(name).or_insert_with(|| certified.clone());
        }
        out.first.get_or_insert(certified);
    }
    Ok(out)
}

fn load_pair(pair: &CertificatePair) -> Result<CertifiedKey, CertificateFault> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pair.cert)
        .collect::<Result<_, _>>()
        .map_err(|e| fault(&pair.cert_name, e))?;
    if chain.is_empty() {
        return Err(fault(&pair.cert_name, "holds no certificate; it must be a PEM file"));
    }
    let key = PrivateKeyDer::from_pem_slice(&pair.key)
        .map_err(|e| fault(&pair.key_name, format!("holds no private key: {e}")))?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|e| fault(&pair.key_name, e))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(_) => Err(fault(&pair.key_name, format!("does not belong to {}", pair.cert_name))),
    }
}

/// The DNS names of a certificate, in lower case.
fn names(cert: &CertificateDer<'_>) -> Result<Vec<String>, rustls::Error> {
    let parsed =
        webpki::EndEntityCert::try_from(cert).map_err(|e| rustls::Error::General(e.to_string()))?;
    Ok(parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}
