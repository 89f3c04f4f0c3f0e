package admin

import (
	"rescuebox/appliance/admin/api"
	"rescuebox/images"
)

// listImages answers GET /v1/images.
func (h *service) listImages(*call) (any, error) {
	list, errs := h.Images.List()
	out := api.Library{Images: []api.Image{}}
	for _, i := range list {
		out.Images = append(out.Images, imageOf(i))
	}
	for _, err := range errs {
		out.Broken = append(out.Broken, err.Error())
	}
	return out, nil
}

// showImage answers GET /v1/images/{name}.
func (h *service) showImage(c *call) (any, error) {
	i, err := h.findImage(c.path("name"))
	if err != nil {
		return nil, err
	}
	return imageOf(i), nil
}

// findImage finds an image; a name that cannot be one is simply not there.
func (h *service) findImage(name string) (images.Image, error) {
	if images.CheckName(name) != nil {
		return images.Image{}, noSuch("image", name, h.imageNames())
	}
	return h.Images.Get(name)
}

// imageNames names all images.
func (h *service) imageNames() (names []string) {
	list, _ := h.Images.List()
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// verifyImage answers POST /v1/images/{name}/verify. An image that changed is a
// result, not a failed call.
func (h *service) verifyImage(c *call) (any, error) {
	i, err := h.findImage(c.path("name"))
	if err != nil {
		return nil, err
	}
	c.note("%s", i.Name)
	v := api.Verified{Image: i.Name, OK: true}
	if err := h.Images.Verify(i); err != nil {
		v.OK, v.Error = false, err.Error()
	}
	return v, nil
}

// removeImage answers DELETE /v1/images/{name}. The image of an open order stays.
func (h *service) removeImage(c *call) (any, error) {
	i, err := h.findImage(c.path("name"))
	if err != nil {
		return nil, err
	}
	c.note("%s", i.Name)
	for _, o := range h.Boot.AllOrders(maxOrders) {
		if o.State.Open() && o.Image == i.Name {
			return nil, conflict("%s is about to boot %s", o.Machine, i.Name).hint("rescuebox cancel %s", o.Machine)
		}
	}
	return nil, h.Images.Remove(i.Name)
}
