//! A page of a bucket's listing, before `object_store` parses it: that refuses the whole page for one key that is no path,
//! takes a key for another that differs in a slash or a blank at its end, and does not ask whether the page is the last.

use bytes::Bytes;

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

    /// The page with stand-ins for keys that are no paths.
    ///
    /// # Errors
    /// A sentence, if it is no page or not the last and gives no way on.
    pub(super) fn rewrite(self, page: Bytes) -> Result<Bytes, &'static str> {
        let Ok(text) = std::str::from_utf8(&page) else {
            return Err("the listing is not UTF-8");
        };
        let (root, object, name) = match self {
            Self::S3 => ("<ListBucketResult", "Contents", "Key"),
            Self::Azure => ("<EnumerationResults", "Blob", "Name"),
        };
        if !text.contains(root) {
            return Err("the answer is not a listing: check the endpoint");
        }
        let truncated = element(text, "IsTruncated").is_some_and(|value| value.trim() == "true");
        let next = element(text, "NextContinuationToken").unwrap_or_default();
        if self == Self::S3 && truncated && next.trim().is_empty() {
            return Err("the listing says that it is not complete and gives no way on: \
                        the store does not support ListObjectsV2");
        }
        let mut new = String::new();
        let mut rest = text;
        let mut changed = false;
        while let Some(found) = find(rest, object) {
            let (before, inside, after) = found;
            new.push_str(before);
            match find(inside, name) {
                Some((head, written, tail)) => {
                    let raw = unescape(written);
                    new.push_str(head);
                    if key::is_path(&raw) {
                        new.push_str(written);
                    } else {
                        changed = true;
                        new.push_str(&escape(key::stand_in(raw.as_bytes()).as_ref()));
                    }
                    new.push_str(tail);
                }
                None => new.push_str(inside),
            }
            rest = after;
        }
        if !changed {
            return Ok(page);
        }
        new.push_str(rest);
        Ok(new.into())
    }
}

/// The text before, inside and after the first element `name`; the tags are with what is around.
fn find<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let mut from = 0;
    loop {
        let open = text.get(from..)?.find(&format!("<{name}"))? + from;
        let after = open + 1 + name.len();
        // Another element may begin with the same letters; one may have attributes.
        if text.get(after..)?.starts_with(['>', ' ', '\t', '\r', '\n']) {
            let begin = after + text.get(after..)?.find('>')? + 1;
            let end = begin + text.get(begin..)?.find(&format!("</{name}"))?;
            return Some((text.get(..begin)?, text.get(begin..end)?, text.get(end..)?));
        }
        from = after;
    }
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    find(text, name).map(|(_, inside, _)| inside)
}

/// XML's text as it is meant.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        // No reference is longer, and to look further each time would take too long where there are many.
        let end = after.bytes().take(12).position(|b| b == b';');
        let known = end.and_then(|end| Some((meant(after.get(..end)?)?, after.get(end + 1..)?)));
        rest = match known {
            Some((c, after)) => {
                plain.push(c);
                after
            }
            None => {
                plain.push('&');
                after
            }
        };
    }
    plain.push_str(rest);
    plain
}

fn meant(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
        let text = "&".repeat(4 << 20);
        assert!(unescape(&text) == text);
        assert_eq!(unescape("&amp;&#x10FFFF;&&lt;"), "&\u{10FFFF}&<");
    }
}
