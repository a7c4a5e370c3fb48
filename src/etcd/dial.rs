//! How one member is connected to.

use etcd_client::Channel;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tonic::transport::{Endpoint, Error};
use tower::{BoxError, ServiceExt as _};

#[cfg(feature = "proxy")]
use super::direct::Direct;

/// Bytes read from a connection at once when much is to come. HTTP/2 by itself asks for 8 KiB.
const READ: usize = 64 << 10;

/// Connects as [`Endpoint::connect`] does, to read a database.
pub(super) async fn to_read_much(endpoint: &Endpoint) -> Result<tonic::transport::Channel, Error> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(endpoint.get_connect_timeout());
    let read_much = |stream: TokioIo<TcpStream>| {
        TokioIo::new(BufReader::with_capacity(READ, stream.into_inner()))
    };
    endpoint.connect_with_connector(http.map_response(read_much)).await
}

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
