//! A page of a bucket's listing, before `object_store` parses it: that refuses the whole page for one key that is no path,
//! takes a key for another that differs in a slash or a blank at its end, and does not ask whether the page is the last.

use bytes::Bytes;
use quick_xml::escape::{EscapeError, resolve_predefined_entity};
use quick_xml::events::{BytesRef, BytesText, Event};
use quick_xml::{Reader, Writer};

use super::key;

/// Whose listing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    /// S3's, which Google's is too.
    S3,
    Azure,
}

impl Listing {
    /// What a request with this query asks for.
    pub(super) fn asked_for(is_get: bool, query: Option<&str>) -> Option<Self> {
        let has = |wanted| query.is_some_and(|query| query.split('&').any(|one| one == wanted));
        match is_get {
            true if has("list-type=2") => Some(Self::S3),
            true if has("comp=list") => Some(Self::Azure),
            _ => None,
        }
    }

    /// The page with stand-ins for keys that are no paths. One that is no XML is given back as it is: `object_store` reads
    /// it with the same parser, and says so.
    ///
    /// # Errors
    /// A sentence, if it is no listing, or not the last page and gives no way on.
    pub(super) fn rewrite(self, page: Bytes) -> Result<Bytes, &'static str> {
        let text = std::str::from_utf8(&page).map_err(|_| "the listing is not UTF-8")?;
        let Ok(read) = self.read(text) else { return Ok(page) };
        if !read.is_listing {
            return Err("the answer is not a listing: check the endpoint");
        }
        if self == Self::S3 && read.truncated && !read.has_next {
            return Err("the listing says that it is not complete and gives no way on: \
                        the store does not support ListObjectsV2");
        }
        Ok(if read.changed { read.page.into() } else { page })
    }

    fn read(self, text: &str) -> quick_xml::Result<Page> {
        let (root, object, name): (_, _, &[u8]) = match self {
            Self::S3 => (b"ListBucketResult".as_slice(), b"Contents".as_slice(), b"Key"),
            Self::Azure => (b"EnumerationResults".as_slice(), b"Blob".as_slice(), b"Name"),
        };
        let (mut reader, mut writer) = (Reader::from_str(text), Writer::new(Vec::new()));
        let mut read = Page::default();
        let (mut elements, mut in_object) = (0_usize, false);
        // The text of the element that is being read, if it is one of interest.
        let mut value: Option<String> = None;
        loop {
            let event = reader.read_event()?;
            match &event {
                Event::Eof => break,
                Event::Start(start) => {
                    let found = start.name();
                    read.is_listing |= elements == 0 && found.as_ref() == root;
                    elements = elements.saturating_add(1);
                    in_object |= found.as_ref() == object;
                    let key = in_object && found.as_ref() == name;
                    let wanted = key || matches!(found.as_ref(), TRUNCATED | NEXT);
                    value = wanted.then(String::new);
                }
                Event::End(end) => {
                    let found = end.name();
                    if let Some(text) = value.take() {
                        let text = match found.as_ref() {
                            TRUNCATED => read.truncates(text),
                            NEXT => read.continues(text),
                            _ => read.key(text),
                        };
                        writer.write_event(Event::Text(BytesText::new(&text)))?;
                    }
                    in_object &= found.as_ref() != object;
                }
                Event::Text(text) if value.is_some() => {
                    value
                        .iter_mut()
                        .try_for_each(|value| text.decode().map(|text| *value += &text))?;
                    continue;
                }
                Event::GeneralRef(reference) if value.is_some() => {
                    let meant = meant(reference)?;
                    value.iter_mut().for_each(|value| *value += &meant);
                    continue;
                }
                _ => {}
            }
            writer.write_event(event)?;
        }
        read.page = writer.into_inner();
        Ok(read)
    }
}

const TRUNCATED: &[u8] = b"IsTruncated";
const NEXT: &[u8] = b"NextContinuationToken";

/// What a page says.
#[derive(Default)]
struct Page {
    page: Vec<u8>,
    is_listing: bool,
    truncated: bool,
    has_next: bool,
    /// A key got a stand-in.
    changed: bool,
}

impl Page {
    fn truncates(&mut self, text: String) -> String {
        self.truncated |= text.trim() == "true";
        text
    }

    fn continues(&mut self, text: String) -> String {
        self.has_next |= !text.trim().is_empty();
        text
    }

    fn key(&mut self, raw: String) -> String {
        if key::is_path(&raw) {
            return raw;
        }
        self.changed = true;
        key::stand_in(raw.as_bytes()).to_string()
    }
}

/// The text that a reference such as `&amp;` or `&#x1;` stands for.
fn meant(reference: &BytesRef<'_>) -> quick_xml::Result<String> {
    if let Some(c) = reference.resolve_char_ref()? {
        return Ok(c.into());
    }
    let name = reference.decode()?;
    resolve_predefined_entity(&name).map(str::to_owned).ok_or_else(|| {
        EscapeError::UnrecognizedEntity(0..name.len(), name.clone().into_owned()).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(listing: Listing, page: &str) -> Result<String, &'static str> {
        let page = listing.rewrite(Bytes::copy_from_slice(page.as_bytes()))?;
        Ok(String::from_utf8(page.to_vec()).unwrap())
    }

    #[test]
    fn a_key_that_is_no_path_gets_a_stand_in_and_all_else_stays() {
        let page = "<?xml?><ListBucketResult><Name>b</Name><Contents><Key>a/b</Key><Size>1</Size>\
                    </Contents><Contents><Key>a//&lt;&#x1;</Key><Size>2</Size></Contents>\
                    <IsTruncated>false</IsTruncated></ListBucketResult>";
        let found = rewritten(Listing::S3, page).unwrap();
        let stand_in = key::stand_in(b"a//<\x01");
        assert_eq!(found, page.replace("a//&lt;&#x1;", stand_in.as_ref()));
        let plain = page.replace("a//&lt;&#x1;", "a/c&amp;d");
        assert_eq!(rewritten(Listing::S3, &plain).unwrap(), plain);
        for odd in ["a/b/", "a/b ", " a/b", "/a/b"] {
            let page = page.replace("<Key>a/b<", &format!("<Key>{odd}<"));
            assert!(
                !rewritten(Listing::S3, &page).unwrap().contains(&format!("<Key>{odd}<")),
                "{odd}"
            );
        }
        let page = "<EnumerationResults><Blobs><Blob><Name Encoded=\"true\">x//y</Name></Blob>\
                    <BlobPrefix><Name>z//</Name></BlobPrefix></Blobs></EnumerationResults>";
        let found = rewritten(Listing::Azure, page).unwrap();
        assert!(!found.contains("x//y") && found.contains("z//"), "{found}");
    }

    #[test]
    fn a_page_that_is_not_the_last_must_give_a_way_on() {
        let page = |rest| {
            format!("<ListBucketResult><IsTruncated>true</IsTruncated>{rest}</ListBucketResult>")
        };
        assert!(rewritten(Listing::S3, &page("")).is_err());
        assert!(
            rewritten(Listing::S3, &page("<NextContinuationToken> </NextContinuationToken>"))
                .is_err()
        );
        rewritten(Listing::S3, &page("<NextContinuationToken>x</NextContinuationToken>")).unwrap();
        assert!(rewritten(Listing::S3, "<html>sign in</html>").is_err());
        assert!(Listing::S3.rewrite(Bytes::from_static(b"\xff")).is_err());
    }

    #[test]
    fn hostile_pages_end() {
        for page in [
            "<ListBucketResult><Contents>",
            "<ListBucketResult><Contents><Key>",
            "<ListBucketResult><Contents <Key",
            "<ListBucketResult &#;&#x;&",
        ] {
            assert_eq!(rewritten(Listing::S3, page).unwrap(), page);
        }
    }

    #[test]
    fn text_of_ampersands_ends() {
        let page = |key: &str| {
            format!("<ListBucketResult><Contents><Key>{key}</Key></Contents></ListBucketResult>")
        };
        let hostile = page(&"&".repeat(4 << 20));
        assert!(rewritten(Listing::S3, &hostile).unwrap() == hostile);
        let references = page("&amp;&#x10FFFF;//&lt;");
        let stand_in = key::stand_in("&\u{10FFFF}//<".as_bytes());
        assert_eq!(
            rewritten(Listing::S3, &references).unwrap(),
            page(stand_in.as_ref()).replace('&', "&amp;")
        );
    }
}
