//! Whom a TLS connection trusts: who the environment names, by the variables of OpenSSL and of Python's `requests`; otherwise whom this
//! system trusts; otherwise Mozilla's list.

use std::path::{Path, PathBuf};

use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};
use ureq::tls::{Certificate, RootCerts};

/// Files or folders of certificates, each with the variable that named it.
pub type Certificates = Vec<(&'static str, String)>;

/// Variables that name a file or a folder of certificates. Where several are set, all are trusted.
pub const NAMED: [&str; 4] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

fn certificates(found: &CertificateResult) -> Vec<Certificate<'static>> {
    found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
}

/// The certificates of one place.
fn of(name: &str, place: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let (file, folder) = if place.is_dir() { (None, Some(place)) } else { (Some(place), None) };
    let found = load_certs_from_paths(file, folder);
    let why = found.errors.first().map_or_else(|| "it holds none".to_owned(), ToString::to_string);
    let certificates = certificates(&found);
    if certificates.is_empty() {
        return Err(format!("{name} = {}: no certificate can be read there: {why}", place.display()));
    }
    Ok(certificates)
}

/// The roots that the environment, or else the system, names. A place without certificates is an error if no other has any.
pub(crate) fn trusted(named: &Certificates) -> Result<RootCerts, String> {
    let mut places: Vec<(&str, PathBuf)> = Vec::new();
    for (name, value) in named {
        // Folders in a list, as OpenSSL has it.
        places.extend(std::env::split_paths(value).filter(|p| *p != PathBuf::new()).map(|p| (*name, p)));
    }
    places.sort_by(|a, b| a.1.cmp(&b.1));
    places.dedup_by(|a, b| a.1 == b.1);
    let mut all = Vec::new();
    let mut failed = None;
    for (name, place) in &places {
        match of(name, place) {
            Ok(found) => all.extend(found),
            Err(what) => failed = failed.or(Some(what)),
        }
    }
    match failed {
        Some(what) if all.is_empty() => return Err(what),
        _ => {}
    }
    if places.is_empty() {
        all = certificates(&load_native_certs());
    }
    Ok(if all.is_empty() { RootCerts::WebPki } else { all.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_without_certificates_is_named_with_its_variable() {
        let folder = tempfile::tempdir().expect("folder");
        let none = folder.path().join("none.pem");
        std::fs::write(&none, "not a certificate").expect("file");
        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty).expect("folder");
        for name in NAMED {
            for place in [folder.path().join("absent"), none.clone(), empty.clone()] {
                // A folder of certificates is one whose files have OpenSSL's hashed names: this one has no such file.
                let place = place.display().to_string();
                let said = trusted(&vec![(name, place.clone())]).expect_err(name);
                assert!(said.contains(name) && said.contains(&place), "{said}");
            }
        }
        assert!(trusted(&vec![]).is_ok());
    }
}
