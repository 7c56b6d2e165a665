//! HTTP/2 callers on the `h2` crate, used from plain threads.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::client::Answer;
use super::{KEY, block_on, runtime};

/// One connection.
pub struct H2 {
    send: SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl H2 {
    /// Connects in clear, by prior knowledge.
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> H2 {
        let io = block_on("a connection", async { TcpStream::connect(addr).await });
        let io = io.expect("the gateway listens");
        io.set_nodelay(true).expect("no delay");
        H2::over(io)
    }

    /// Speaks HTTP/2 over `io`, with the windows of the RFC.
    #[track_caller]
    pub fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> H2 {
        H2::with(io, &h2::client::Builder::new())
    }

    /// Speaks HTTP/2 over `io` with settings of the test's own.
    #[track_caller]
    pub fn with(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        builder: &h2::client::Builder,
    ) -> H2 {
        let (send, connection) =
            block_on("the HTTP/2 handshake", builder.handshake(io)).expect("HTTP/2");
        let driver = runtime().spawn(connection);
        H2 { send, driver }
    }

    /// Opens a stream; `None` for a body that is sent later.
    ///
    /// # Errors
    /// When the connection takes no more streams.
    pub fn try_open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<H2Stream, h2::Error> {
        let mut request =
            Request::builder().method(method).uri(format!("http://gateway.test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a valid request");
        let send = self.send.clone();
        block_on("room for a stream", async move {
            let mut send = send.ready().await?;
            let empty = body.is_some_and(<[u8]>::is_empty);
            let (response, mut stream) = send.send_request(request, empty)?;
            if let Some(body) = body.filter(|body| !body.is_empty()) {
                // An early answer may have ended the stream already; it is what counts.
                let _ = stream.send_data(Bytes::copy_from_slice(body), true);
            }
            Ok(H2Stream { response: Some(response), send: stream, body: None })
        })
    }

    /// Opens a POST with [`KEY`].
    #[track_caller]
    pub fn open_post(&self, path: &str, body: impl AsRef<[u8]>) -> H2Stream {
        let bearer = format!("Bearer {KEY}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.try_open("POST", path, &headers, Some(body.as_ref())).expect("a stream")
    }

    /// A POST with [`KEY`], to its end.
    #[track_caller]
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.open_post(path, body).answer()
    }

    /// Any request, to its end.
    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.try_open(method, path, headers, Some(body)).expect("a stream").answer()
    }

    /// Waits for the end of the connection; its error, if there was one.
    #[track_caller]
    pub fn ended(self) -> Option<h2::Error> {
        let H2 { send, driver } = self;
        let outcome = block_on("the end of the connection", driver).expect("no panic");
        drop(send);
        outcome.err()
    }
}

/// One stream.
pub struct H2Stream {
    response: Option<ResponseFuture>,
    pub send: SendStream<Bytes>,
    body: Option<RecvStream>,
}

impl H2Stream {
    /// Waits for the head.
    ///
    /// # Errors
    /// The stream or the connection was cut.
    #[track_caller]
    pub fn try_head(&mut self) -> Result<Answer, h2::Error> {
        let response = self.response.take().expect("the head is waited for once");
        let response = block_on("the head of an answer", response)?;
        let (parts, body) = response.into_parts();
        self.body = Some(body);
        Ok(answer_of(&parts))
    }

    #[track_caller]
    pub fn head(&mut self) -> Answer {
        self.try_head().expect("an answer")
    }

    /// Sends the whole answer there when it has come; nobody waits for it here.
    pub fn answer_later(mut self, sender: std::sync::mpsc::Sender<Answer>) {
        let response = self.response.take().expect("the head is waited for once");
        drop(runtime().spawn(async move {
            let (parts, mut body) = response.await.expect("an answer").into_parts();
            let mut answer = answer_of(&parts);
            while let Some(piece) = body.data().await {
                let piece = piece.expect("a whole answer");
                let _ = body.flow_control().release_capacity(piece.len());
                answer.body.extend_from_slice(&piece);
            }
            let _ = sender.send(answer);
            drop(self.send);
        }));
    }

    /// The next piece of the body; `Ok(None)` at its end.
    ///
    /// # Errors
    /// The stream or the connection was cut.
    #[track_caller]
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, h2::Error> {
        let body = self.body.as_mut().expect("the head comes first");
        match block_on("a piece of the answer", body.data()) {
            None => Ok(None),
            Some(piece) => {
                let piece = piece?;
                let _ = body.flow_control().release_capacity(piece.len());
                Ok(Some(piece.to_vec()))
            }
        }
    }

    /// The whole answer.
    #[track_caller]
    pub fn answer(mut self) -> Answer {
        let mut answer = self.head();
        self.rest_of(&mut answer);
        answer
    }

    /// Reads the rest of the body into `answer`.
    #[track_caller]
    pub fn rest_of(&mut self, answer: &mut Answer) {
        loop {
            match self.piece() {
                Ok(Some(piece)) => answer.body.extend_from_slice(&piece),
                Ok(None) => return,
                Err(_) => {
                    answer.broken = true;
                    return;
                }
            }
        }
    }

    /// Reads pieces of the body into `answer` until it holds `text`.
    #[track_caller]
    pub fn read_until(&mut self, answer: &mut Answer, text: &str) {
        while super::client::find(&answer.body, text.as_bytes()).is_none() {
            match self.piece() {
                Ok(Some(piece)) => answer.body.extend_from_slice(&piece),
                other => {
                    panic!("the answer ended without {text:?} ({other:?}): {:?}", answer.text())
                }
            }
        }
    }

    /// Gives the stream up, as a caller who leaves does.
    pub fn cancel(mut self) {
        self.send.send_reset(h2::Reason::CANCEL);
    }
}

/// The head of an answer.
fn answer_of(parts: &http::response::Parts) -> Answer {
    let headers = parts
        .headers
        .iter()
        .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    Answer { status: parts.status.as_u16(), headers, ..Answer::default() }
}
