// A backend in Node, as a route handler of Next.js (app/api/post/route.js): exchanges the token that its page sends.
export async function POST(request) {
  const { channel, text } = await request.json();
  const exchanged = await fetch(`${process.env.VAULT_URL}/token`, {
    method: "POST",
    headers: { authorization: `Basic ${btoa(`${process.env.CLIENT_ID}:${process.env.CLIENT_SECRET}`)}` },
    body: new URLSearchParams({
      grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
      subject_token: request.headers.get("authorization").replace("Bearer ", ""),
      subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
      audience: "slack",
      scope: "chat:write",
    }),
  });
  const answer = await exchanged.json();
  if (!exchanged.ok) return Response.json(answer, { status: 403 }); // `connect_uri` is for the person
  const posted = await fetch(`${answer.api_base_url}/chat.postMessage`, {
    method: "POST",
    headers: { authorization: `Bearer ${answer.access_token}`, "content-type": "application/json; charset=utf-8" },
    body: JSON.stringify({ channel, text }),
  });
  return Response.json(await posted.json(), { status: posted.status });
}
