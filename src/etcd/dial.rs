//! How one member is connected to.

use etcd_client::Channel;
use tonic::transport::Endpoint;
use tower::BoxError;

#[cfg(feature = "proxy")]
use super::direct::Direct;

/// How a member is connected to.
#[derive(Clone)]
pub(super) enum Dial {
    Plain(Endpoint),
    /// With writes that are [gathered](super::gather).
    #[cfg(feature = "proxy")]
    Gathering(Endpoint),
    #[cfg(feature = "proxy")]
    Direct(Direct),
}

impl Dial {
    pub(super) fn lazily(&self) -> Channel {
        match self {
            Self::Plain(endpoint) => Channel::Tonic(endpoint.connect_lazy()),
            #[cfg(feature = "proxy")]
            Self::Gathering(endpoint) => Channel::Tonic(super::gather::lazily(endpoint)),
            #[cfg(feature = "proxy")]
            Self::Direct(direct) => direct.channel(),
        }
    }

    pub(super) async fn at_once(&self) -> std::result::Result<Channel, BoxError> {
        Ok(match self {
            Self::Plain(endpoint) => Channel::Tonic(endpoint.connect().await?),
            #[cfg(feature = "proxy")]
            Self::Gathering(endpoint) => Channel::Tonic(super::gather::at_once(endpoint).await?),
            #[cfg(feature = "proxy")]
            Self::Direct(direct) => {
                direct.connect().await?;
                direct.channel()
            }
        })
    }
}
