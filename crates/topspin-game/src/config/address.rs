//! An address in the configuration.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// An address with a port, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Address(pub Option<SocketAddr>);

impl From<Address> for String {
    fn from(Address(address): Address) -> Self {
        address.map(|address| address.to_string()).unwrap_or_default()
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let address = text.parse().map(|address| Self(Some(address)));
        address.map_err(|_| format!("`{text}` is not an address and a port, such as \"127.0.0.1:9464\""))
    }
}
