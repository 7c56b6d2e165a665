//! Settings that are one word out of a list: the words, and what later versions will add to them.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// The words that a setting may be.
#[derive(Debug)]
pub(super) struct Choices {
    pub now: &'static [&'static str],
    /// Known words that this version has nothing for: refused with a sentence of their own.
    pub later: &'static [&'static str],
}

macro_rules! choice {
    (
        $(#[$doc:meta])* $name:ident {
            $( $(#[$word_doc:meta])* $variant:ident = $word:literal, )+
        } later [ $($later:literal),* ]
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $( $(#[$word_doc])* $variant, )+ }

        impl $name {
            pub(super) const CHOICES: Choices =
                Choices { now: &[$($word),+], later: &[$($later),*] };

            /// The word in the configuration.
            pub fn name(self) -> &'static str {
                match self { $( $name::$variant => $word, )+ }
            }

            /// The setting that this word stands for.
            pub fn from_name(word: &str) -> Option<$name> {
                match word { $( $word => Some($name::$variant), )+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}

choice! {
    /// How the targets of a model are ordered.
    Policy {
        /// The lowest `priority` first; by weight among equals.
        Priority = "priority",
        /// By chance, in proportion to `weight`.
        Weighted = "weighted",
        /// The target with the fewest requests in flight first.
        LeastOutstanding = "least_outstanding",
    } later ["ttft", "ttft_p50", "ttft_p90", "p2c", "cheapest", "round_robin", "lowest_latency"]
}

choice! {
    /// The wire format that a provider speaks.
    Dialect {
        /// OpenAI's, and everything compatible with it.
        OpenAi = "openai",
    } later ["azure", "anthropic", "gemini", "bedrock"]
}

choice! {
    /// The HTTP version towards a provider.
    Protocol {
        /// HTTP/2 where TLS agrees on it, else HTTP/1.1; HTTP/1.1 in clear.
        Auto = "auto",
        /// HTTP/1.1 only.
        H1 = "h1",
        /// HTTP/2 only; in clear by prior knowledge.
        H2 = "h2",
    } later ["h3"]
}

choice! {
    /// What becomes of an upstream request whose caller has left.
    OnDisconnect {
        /// It is cancelled at once.
        Cancel = "cancel",
        /// It is read on, within a bound, so that its usage is known.
        Drain = "drain",
    } later []
}

choice! {
    /// What becomes of a request for which there is no price.
    Unpriced {
        /// It is served at no cost; its record says so.
        Free = "free",
        /// It is refused.
        Refuse = "refuse",
        /// It is billed at the default price.
        Default = "default",
    } later []
}

choice! {
    /// When an account pays.
    Billing {
        /// Afterwards: its use is counted.
        Postpaid = "postpaid",
        /// In advance: it is served as long as its balance lasts.
        Prepaid = "prepaid",
    } later []
}

choice! {
    /// What becomes of requests when their records find no room.
    WhenFull {
        /// They are refused.
        Refuse = "refuse",
        /// They are served; their records are dropped and counted.
        Drop = "drop",
    } later []
}

choice! {
    /// What a key may be used for.
    Endpoint {
        /// `POST /chat/completions`.
        Chat = "chat",
        /// `POST /completions`.
        Completions = "completions",
        /// `POST /embeddings`.
        Embeddings = "embeddings",
        /// `POST /responses`.
        Responses = "responses",
        /// `POST /moderations`.
        Moderations = "moderations",
        /// `POST /images/generations`.
        Images = "images",
        /// `POST /audio/speech`.
        Speech = "speech",
        /// `POST /rerank`.
        Rerank = "rerank",
        /// `GET /models`.
        Models = "models",
    } later ["messages", "files", "batches", "realtime", "transcriptions", "translations"]
}

choice! {
    /// How much the process tells about itself.
    Level {
        /// What needs a hand.
        Error = "error",
        /// What may need one soon.
        Warn = "warn",
        /// What an operator did or must know.
        Info = "info",
        /// One line for many requests.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    } later []
}

/// Where the access log goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AccessLog {
    /// The standard output.
    Stdout,
    /// The standard error output.
    Stderr,
    /// Nowhere.
    Off,
    /// A file that is appended to.
    File(PathBuf),
}

impl AccessLog {
    /// The words; anything else that looks like a path is one.
    pub(super) const WORDS: &[&str] = &["stdout", "stderr", "off"];

    pub(super) fn from_text(text: &str) -> AccessLog {
        match text {
            "stdout" => AccessLog::Stdout,
            "stderr" => AccessLog::Stderr,
            "off" => AccessLog::Off,
            path => AccessLog::File(path.into()),
        }
    }
}

impl Serialize for AccessLog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            AccessLog::Stdout => serializer.serialize_str("stdout"),
            AccessLog::Stderr => serializer.serialize_str("stderr"),
            AccessLog::Off => serializer.serialize_str("off"),
            AccessLog::File(path) => serializer.collect_str(&path.display()),
        }
    }
}
